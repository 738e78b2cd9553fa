package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tftplib "github.com/pin/tftp/v3"

	"github.com/teeth-metal/teeth/internal/need"
)

// start serves files from memory and returns the server's address and its transfers.
func start(t testing.TB, files map[string][]byte) (string, chan Transfer) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan Transfer, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, conn, Config{
			Open: func(name string) (io.ReadCloser, int64, error) {
				b, ok := files[name]
				if !ok {
					return nil, 0, fs.ErrNotExist
				}
				return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
			},
			Ended: func(tr Transfer) {
				select {
				case ended <- tr:
				default:
				}
			},
			Log: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * drain):
			t.Error("the server does not end")
		}
	})
	return conn.LocalAddr().String(), ended
}

func TestTransfer(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	addr, ended := start(t, map[string][]byte{"ipxe.efi": content, "empty.efi": nil, "block.efi": content[:1024]})
	for _, name := range []string{"ipxe.efi", "empty.efi", "block.efi"} {
		for _, blksize := range []int{0, 512, 1456, 60000} {
			c, err := tftplib.NewClient(addr)
			if err != nil {
				t.Fatal(err)
			}
			if blksize > 0 {
				c.SetBlockSize(blksize)
			}
			wt, err := c.Receive(name, "octet")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := wt.WriteTo(&got); err != nil {
				t.Fatal(err)
			}
			want := map[string][]byte{"ipxe.efi": content, "empty.efi": nil, "block.efi": content[:1024]}[name]
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s, blksize %d: %d bytes of %d", name, blksize, got.Len(), len(want))
			}
			tr := <-ended
			if tr.Err != nil || tr.Size != int64(len(want)) || tr.File != name || tr.Remote.Addr().String() != "127.0.0.1" {
				t.Errorf("transfer: %+v", tr)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	addr, ended := start(t, map[string][]byte{"a.efi": []byte("a")})
	c, err := tftplib.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	wt, err := c.Receive("../etc/passwd\x1b[2J", "octet")
	if err == nil {
		_, err = wt.WriteTo(io.Discard)
	}
	if err == nil || !strings.Contains(err.Error(), "file not found") {
		t.Errorf("unknown file: %v", err)
	}
	if tr := <-ended; tr.Err == nil || strings.ContainsRune(tr.File, 0x1b) {
		t.Errorf("transfer: %+v", tr)
	}
	rf, err := c.Send("a.efi", "octet")
	if err == nil {
		_, err = rf.ReadFrom(strings.NewReader("overwritten"))
	}
	if err == nil {
		t.Error("a file was written")
	}
}

// One that asks for the size only, as UEFI does, has not failed.
func TestSizeOnly(t *testing.T) {
	addr, ended := start(t, map[string][]byte{"a.efi": make([]byte, 5000)})
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	from.SetDeadline(time.Now().Add(5 * time.Second))
	to := conn.RemoteAddr().(*net.UDPAddr)
	from.WriteTo([]byte("\x00\x01a.efi\x00octet\x00tsize\x000\x00blksize\x001456\x00"), to)
	buf := make([]byte, 1500)
	n, peer, err := from.ReadFrom(buf)
	if err != nil || binary.BigEndian.Uint16(buf) != 6 || !bytes.Contains(buf[:n], []byte("5000")) {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	from.WriteTo([]byte("\x00\x05\x00\x08User aborted the transfer\x00"), peer)
	select {
	case tr := <-ended:
		t.Errorf("counted as a transfer: %+v", tr)
	case <-time.After(300 * time.Millisecond):
	}
}

// Requests that are never followed up hold no more than their share, and others
// are served meanwhile.
func TestTransfersOfAnAddressAreBounded(t *testing.T) {
	addr, _ := start(t, map[string][]byte{"a.efi": make([]byte, 5000)})
	refused := 0
	for range 3 * maxPerAddress {
		c, err := net.Dial("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		from.SetDeadline(time.Now().Add(5 * time.Second))
		from.WriteTo([]byte("\x00\x01a.efi\x00octet\x00"), c.RemoteAddr())
		buf := make([]byte, 1500)
		n, _, err := from.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if binary.BigEndian.Uint16(buf) == 5 && bytes.Contains(buf[:n], []byte(errBusy.Error())) {
			refused++
		}
	}
	if refused != 2*maxPerAddress {
		t.Errorf("%d of %d were refused", refused, 3*maxPerAddress)
	}
}

// A client that nobody here wrote.
func TestCurl(t *testing.T) {
	curl := need.Program(t, "curl", "curl")
	content := bytes.Repeat([]byte("abc"), 100_000)
	addr, _ := start(t, map[string][]byte{"ipxe.efi": content})
	for _, blksize := range []string{"512", "1468", "8192"} {
		name := filepath.Join(t.TempDir(), "out")
		out, err := exec.CommandContext(t.Context(), curl, "-s", "-S", "--tftp-blksize", blksize, "-o", name, "tftp://"+addr+"/ipxe.efi").CombinedOutput()
		if err != nil {
			t.Fatalf("blksize %s: %v: %s", blksize, err, out)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
			t.Errorf("blksize %s: %d bytes, %v", blksize, len(got), err)
		}
	}
}

// Nothing that comes may end the server.
func FuzzRequest(f *testing.F) {
	addr, _ := start(f, map[string][]byte{"a.efi": []byte("abc")})
	for _, s := range []string{
		"\x00\x01a.efi\x00octet\x00", "\x00\x01a.efi\x00netascii\x00blksize\x0065464\x00tsize\x000\x00", "\x00\x02a.efi\x00octet\x00",
		"\x00\x01a.efi", "\x00\x01", "", "\x00\x06x\x001\x00", "\x00\x01a.efi\x00octet\x00blksize\x00000000000000000000000512\x00tsize\x00-1\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, err := net.Dial("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if len(b) > 1400 {
			b = b[:1400]
		}
		to.Write(b)
		from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		from.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 600)
		if _, err := from.WriteTo([]byte("\x00\x01a.efi\x00octet\x00"), to.RemoteAddr()); err != nil {
			t.Fatal(err)
		}
		for {
			n, peer, err := from.ReadFrom(buf)
			if err != nil {
				t.Fatalf("after %q: %v", b, err)
			}
			if n >= 4 && buf[1] == 3 {
				from.WriteTo([]byte{0, 4, buf[2], buf[3]}, peer)
				return
			}
			if bytes.Contains(buf[:n], []byte(errBusy.Error())) {
				return
			}
		}
	})
}
