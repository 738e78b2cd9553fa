package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// A client that announces a body and sends none of it, or stops in the middle, is
// not waited for without end: neither one without the token, nor one whose
// request is refused before or while its body is read.
func TestBodyThatNeverComes(t *testing.T) {
	defer func(d time.Duration) { bodyStall = d }(bodyStall)
	bodyStall = 200 * time.Millisecond
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	library, err := images.Open(t.Context(), images.Config{Dir: filepath.Join(dir, "images"), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddImage(t.Context(), store.Image{ID: "1", Name: "taken"}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	h := Handler(ctx, Config{Store: s, Images: library, Token: "operator", Log: log})
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, log) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	const token = "Authorization: Bearer operator\r\n"
	const image = "Content-Type: application/octet-stream\r\n"
	for name, c := range map[string]struct{ line, header, body string }{
		"no token":        {"POST /v1/images", "", ""},
		"no such thing":   {"POST /v1/nothing", "", ""},
		"no body wanted":  {"GET /v1/version", token, ""},
		"refused JSON":    {"POST /v1/chassis/x/provision", token, `{"unknown":1}`},
		"cut JSON":        {"POST /v1/chassis/x/provision", token, `{"image":`},
		"refused at once": {"POST /v1/images?name=taken&format=raw", token + image, ""},
		"stalled":         {"POST /v1/images?name=new&format=raw", token + image, "some"},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: a\r\n%sContent-Length: 1000\r\n\r\n%s", c.line, c.header, c.body)
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: still open after 5 s: %v", name, err)
		}
	}
}
