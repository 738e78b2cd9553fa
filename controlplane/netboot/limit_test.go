package netboot

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
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

func TestWritesOfOneAddress(t *testing.T) {
	issued := 0
	h, _, _ := with(t, func(c *Config) {
		c.BootToken = func(context.Context, string, string) (string, error) { issued++; return "token", nil }
	})
	codes := map[int]int{}
	began := time.Now()
	for codes[http.StatusTooManyRequests] == 0 && time.Since(began) < time.Minute {
		codes[get(h, "/boot/ipxe?mac=52-54-00-12-34-56").Code]++
	}
	if most := writeBurst + 1 + int(writeRate*time.Since(began).Seconds()); issued > most || codes[http.StatusOK] != issued {
		t.Errorf("%d tokens, want at most %d: %v", issued, most, codes)
	}
	if codes[http.StatusTooManyRequests] == 0 {
		t.Fatalf("no limit within a minute: %v", codes)
	}
	r := httptest.NewRequest(http.MethodGet, "/boot/ipxe?mac=52-54-00-12-34-56", nil)
	r.RemoteAddr, r.Host = "198.51.100.7:1", "10.0.2.2:8082"
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Errorf("another address: %d", w.Code)
	}
	if w := get(h, "/boot/ipxe"); w.Code != http.StatusOK {
		t.Errorf("the first script, which writes nothing: %d", w.Code)
	}

	rs, now := newRates(), time.Now()
	for i := range maxRates + 10 {
		rs.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(rs.of) != maxRates {
		t.Errorf("%d addresses are remembered", len(rs.of))
	}
	if rs.allow(netip.AddrFrom4([4]byte{192, 0, 2, 1}), now.Add(time.Hour)); len(rs.of) != 1 {
		t.Errorf("%d addresses are remembered an hour later", len(rs.of))
	}
}
