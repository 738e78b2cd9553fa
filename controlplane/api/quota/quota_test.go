package quota

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func TestRates(t *testing.T) {
	r := NewRates[string](10, 3, 2)
	for range 3 {
		if _, ok := r.Take("a"); !ok {
			t.Fatal("refused within the burst")
		}
	}
	wait, ok := r.Take("a")
	if ok || wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("after the burst: %v, wait %v", ok, wait)
	}
	if wait, empty := r.Empty("a"); !empty || wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("empty: %v, wait %v", empty, wait)
	}
	if _, ok := r.Take("b"); !ok {
		t.Error("one key's events were taken from another's")
	}
	// There is room for two; the others share one bucket, and what is kept stays bounded.
	refused := 0
	for i := range 10 {
		if _, ok := r.Take(string(rune('c' + i))); !ok {
			refused++
		}
	}
	if refused < 6 || len(r.buckets) > 2 {
		t.Errorf("%d of 10 further keys refused, %d buckets", refused, len(r.buckets))
	}
	time.Sleep(400 * time.Millisecond) // all are full again
	r.swept = time.Time{}
	r.Take("z")
	if _, kept := r.buckets["z"]; !kept || len(r.buckets) != 1 {
		t.Errorf("full buckets were not forgotten: %d", len(r.buckets))
	}
	unlimited := NewRates[string](0, 1, 1)
	for range 100 {
		if _, ok := unlimited.Take("a"); !ok {
			t.Fatal("no limit limits")
		}
	}
	if _, empty := unlimited.Empty("a"); empty {
		t.Error("no limit is used up")
	}
}

func TestSource(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80":             "192.0.2.1",
		"[::ffff:192.0.2.1]:80":    "192.0.2.1",
		"[2001:db8::1]:80":         "2001:db8::",
		"[2001:db8::ffff:1%lo]:80": "2001:db8::",
	} {
		if got := Source(remote); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
	if Source("@").IsValid() {
		t.Error("an address out of nothing")
	}
}

type conn struct {
	net.Conn
	remote string
	closed chan struct{}
}

func (c *conn) RemoteAddr() net.Addr { return addr(c.remote) }
func (c *conn) Close() error         { close(c.closed); return nil }

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

func TestConns(t *testing.T) {
	c := NewConns(3, 2)
	var all []*conn
	for i, remote := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1", "192.0.2.3:1"} {
		n := &conn{remote: remote, closed: make(chan struct{})}
		all = append(all, n)
		c.ConnState(n, http.StateNew)
		if i == 2 || i == 4 { // the third of one address; the fourth of all
			select {
			case <-n.closed:
			case <-time.After(5 * time.Second):
				t.Fatalf("connection %s was not refused", remote)
			}
			c.ConnState(n, http.StateClosed)
		}
	}
	if c.Open() != 3 {
		t.Errorf("%d open", c.Open())
	}
	for _, n := range all {
		c.ConnState(n, http.StateClosed)
	}
	if c.Open() != 0 || len(c.from) != 0 {
		t.Errorf("%d open, %v", c.Open(), c.from)
	}
}
