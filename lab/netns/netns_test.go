package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/internal/need"
)

var address = netip.MustParsePrefix("192.0.2.1/24")

func temporaryNet(t *testing.T) *Net {
	t.Helper()
	need.Right(t, Available())
	n, err := Temporary(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestNet(t *testing.T) {
	n := temporaryNet(t)
	for range 2 { // the second time it is there
		if err := n.Tap(t.Context(), "tap-a"); err != nil {
			t.Fatal(err)
		}
	}
	out, err := n.Command(t.Context(), "ip", "-o", "link", "show", "master", Bridge).Output()
	if err != nil || !strings.Contains(string(out), "tap-a") {
		t.Errorf("on the bridge is %q (%v), want the tap", out, err)
	}
	if _, err := net.InterfaceByName(Bridge); err == nil {
		t.Error("the bridge is seen outside of its namespace")
	}
	again, err := Open(t.Context(), n.Name)
	if err != nil || again.Address != address {
		t.Errorf("found again with address %v (%v)", again, err)
	}
	if _, err := Create(t.Context(), n.Name, address); err == nil {
		t.Error("a network was made twice")
	}
	if _, err := Create(t.Context(), "../x", address); err == nil {
		t.Error("a name that leads elsewhere was taken")
	}
	if err := n.Do(func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want the function's error", err)
	}
}

// TestForward reaches a server in the namespace from outside.
func TestForward(t *testing.T) {
	n := temporaryNet(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	var l net.Listener
	if err := n.Do(func() (err error) { l, err = net.Listen("tcp", at); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(conn)
			conn.Write(append([]byte("heard "), b...))
			conn.Close()
		}
	}()
	if conn, err := net.Dial("tcp", at); err == nil {
		conn.Close()
		t.Fatal("the server inside is reached without a forwarder")
	}
	f, err := n.Forward(at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "hello")
	conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "heard hello" {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestBehind sends through the router, both ways.
func TestBehind(t *testing.T) {
	n := temporaryNet(t)
	r, err := n.Behind(t.Context(), netip.MustParsePrefix("198.51.100.1/24"), netip.MustParseAddr("192.0.2.254"))
	if err != nil {
		t.Fatal(err)
	}
	pc := map[*Net]net.PacketConn{}
	for _, side := range []struct {
		in *Net
		at string
	}{{n, "192.0.2.1:7000"}, {r, "198.51.100.1:7000"}} {
		err := side.in.Do(func() (err error) { pc[side.in], err = net.ListenPacket("udp4", side.at); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer pc[side.in].Close()
		pc[side.in].SetDeadline(time.Now().Add(5 * time.Second))
	}
	if _, err := pc[n].WriteTo([]byte("down"), pc[r].LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	c, from, err := pc[r].ReadFrom(b)
	if err != nil || string(b[:c]) != "down" {
		t.Fatalf("got %q, %v", b[:c], err)
	}
	if _, err := pc[r].WriteTo([]byte("up"), from); err != nil {
		t.Fatal(err)
	}
	if c, _, err = pc[n].ReadFrom(b); err != nil || string(b[:c]) != "up" {
		t.Errorf("got %q, %v", b[:c], err)
	}
}

// TestSweep leaves a network as a process that crashed would, with a program
// still running in it: the next one clears it away, and not the one in use.
func TestSweep(t *testing.T) {
	used, left := temporaryNet(t), temporaryNet(t)
	left.lock.Close() // as the end of its process does
	left.lock = nil
	sleeper := exec.Command("sleep", "600")
	if err := left.Do(sleeper.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	temporaryNet(t)
	if _, err := os.Stat(filepath.Join(folder, left.Name)); !os.IsNotExist(err) {
		t.Errorf("what a crash left is still there (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(folder, used.Name)); err != nil {
		t.Errorf("a network in use was removed: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("a process of the crashed network still runs")
		sleeper.Process.Kill()
	}
}
