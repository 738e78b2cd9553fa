package netboot

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// One machine of the boot network cannot take all file descriptors, and those it
// had are free again when it is gone.
func TestConnectionsOfOneAddress(t *testing.T) {
	defer func(n int) { maxPerAddress = n }(maxPerAddress)
	maxPerAddress = 3
	h, _, _ := setup(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	answered := func() (net.Conn, bool) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET /boot/ipxe HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return conn, err == nil && resp.StatusCode == http.StatusOK
	}
	var held []net.Conn
	for i := range 5 {
		conn, ok := answered()
		defer conn.Close()
		if ok != (i < 3) {
			t.Errorf("connection %d: answered %v", i, ok)
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		conn.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, ok := answered()
		conn.Close()
		if ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no connection is taken any more")
		}
	}
}
