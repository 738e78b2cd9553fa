// Package tftp serves boot loaders by TFTP (RFC 1350, with the options blksize and
// tsize of RFC 2347 to 2349), the one way in which PXE firmware loads anything. It
// is read-only and serves what package bootfile names.
//
// The rest of a boot goes by HTTP, so there is no windowsize option (RFC 7440): a
// loader is some hundred kilobytes.
package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	tftplib "github.com/pin/tftp/v3"
	"golang.org/x/time/rate"
)

// Bounds. Firmware may have several transfers under way: it asks for the size first
// and leaves that transfer to time out.
const (
	maxTransfers  = 512
	maxPerAddress = 16
	roundTrip     = 2 * time.Second // until a block is sent again
	retries       = 6
	longest       = 10 * time.Minute // of a transfer, however slow
	drain         = 2 * time.Second  // for transfers under way when the server ends
)

// Transfer is one that has ended.
type Transfer struct {
	File   string // as asked for, at most 128 bytes of printable ASCII
	Remote netip.AddrPort
	Size   int64 // bytes sent
	Time   time.Duration
	Err    error // nil: all of it was acknowledged
}

// Config of a server.
type Config struct {
	// Open opens a file by the name that was asked for.
	Open  func(name string) (io.ReadCloser, int64, error)
	Ended func(Transfer) // called after each transfer that had begun, and each refusal; may be nil
	Log   *slog.Logger
}

type server struct {
	Config
	done  context.Context
	quiet *rate.Limiter

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

// Serve serves on conn until ctx ends, and closes it.
func Serve(ctx context.Context, conn *net.UDPConn, c Config) error {
	s := &server{Config: c, done: ctx, quiet: rate.NewLimiter(rate.Every(10*time.Second), 5), from: map[netip.Addr]int{}}
	lib := tftplib.NewServer(s.read, nil)
	lib.SetTimeout(roundTrip)
	lib.SetRetries(retries)
	lib.SetBackoff(func(int) time.Duration { return 0 }) // roundTrip has passed already
	// Not the library's single port mode: it sends on a channel that a transfer
	// may just have closed.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		down := make(chan struct{})
		go func() {
			defer close(down)
			lib.Shutdown()
		}()
		select {
		case <-down:
		case <-time.After(drain):
		}
	})
	err := lib.Serve(conn)
	if !stop() {
		<-ended
	}
	conn.Close()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("TFTP on %s: %w", conn.LocalAddr(), err)
	}
	return nil
}

// errBusy is what a client is told that has too many transfers.
var errBusy = errors.New("too many transfers")

// read answers a request. What it returns as an error the client reads, so it names
// nothing of this machine.
func (s *server) read(name string, rf io.ReaderFrom) error {
	began := time.Now()
	t := Transfer{File: printable(name)}
	out, ok := rf.(tftplib.OutgoingTransfer)
	if ok {
		a := out.RemoteAddr()
		t.Remote = a.AddrPort()
		t.Remote = netip.AddrPortFrom(t.Remote.Addr().Unmap(), t.Remote.Port())
	}
	if !s.enter(t.Remote.Addr()) {
		s.complain(t, errBusy)
		return errBusy
	}
	defer s.leave(t.Remote.Addr())
	f, size, err := s.Open(name)
	if err != nil {
		t.Err = err
		s.end(t)
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("file not found")
		}
		return errors.New("file cannot be read")
	}
	defer f.Close()
	if ok {
		out.SetSize(size)
	}
	t.Size, t.Err = rf.ReadFrom(&bounded{f, s.done, began.Add(longest)})
	t.Time = time.Since(began)
	if t.Err != nil && t.Size == 0 && strings.HasPrefix(t.Err.Error(), "sending block 0: code=") {
		return nil // it has asked for the size, and knows it
	}
	s.end(t)
	return nil // the library has told the client
}

func (s *server) enter(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxTransfers || s.from[a] >= maxPerAddress {
		return false
	}
	s.all++
	s.from[a]++
	return true
}

func (s *server) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[a]--; s.from[a] == 0 {
		delete(s.from, a)
	}
}

func (s *server) end(t Transfer) {
	if t.Err != nil {
		s.complain(t, t.Err)
	} else {
		s.Log.Info("boot file sent by TFTP", "file", t.File, "to", t.Remote, "bytes", t.Size, "seconds", t.Time.Seconds())
	}
	if s.Ended != nil {
		s.Ended(t)
	}
}

func (s *server) complain(t Transfer, err error) {
	if s.quiet.Allow() {
		s.Log.Warn("boot file not sent by TFTP", "file", t.File, "to", t.Remote, "bytes", t.Size, "error", err)
	}
}

// bounded ends a transfer that takes too long, or when the server ends.
type bounded struct {
	io.Reader
	done  context.Context
	until time.Time
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.done.Err() != nil {
		return 0, errors.New("the server ends")
	}
	if time.Now().After(b.until) {
		return 0, errors.New("the transfer took too long")
	}
	return b.Reader.Read(p)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s[:min(len(s), 128)])
}
