package netboot

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// A client that announces a body and sends none is not waited for without end,
// whatever it asks for.
func TestBodyThatNeverComes(t *testing.T) {
	defer func(d time.Duration) { bodyStall = d }(bodyStall)
	bodyStall = 200 * time.Millisecond
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
	for _, request := range []string{"GET /boot/ipxe", "POST /phone_home/x", "PUT /nothing"} {
		for _, length := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", request, length)
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("%s, %s: still open after 10 s: %v", request, length, err)
			}
		}
	}
}
