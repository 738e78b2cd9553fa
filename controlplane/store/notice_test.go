package store

import (
	"encoding/json"
	"fmt"
	"testing"
)

// TestNoticesOfAnybodyGiveWay fills the store as requests of anybody on the boot
// network can while the broker is away: what has happened to graphs stays.
func TestNoticesOfAnybodyGiveWay(t *testing.T) {
	const keep = 1000
	s := newStore(t)
	drop := func() (untold int64, err error) {
		err = s.update(t.Context(), func(x *tx) error {
			untold, err = x.dropNotices(0, keep)
			return err
		})
		return untold, err
	}
	add := func(kind string, n int) {
		t.Helper()
		if err := s.update(t.Context(), func(x *tx) error {
			for i := range n {
				if err := x.notice(kind, "", fmt.Sprint(kind, i), json.RawMessage(`{}`)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	add(NoticeGraphEnded, 10)
	add(NoticeHTTP, keep/2)
	add(NoticeTFTPFailed, keep/2)
	add(NoticeGraphStarted, 10)
	untold, err := drop()
	if err != nil || untold != 20 {
		t.Fatalf("%d untold, %v", untold, err)
	}
	count := func(kind string) (n int) {
		t.Helper()
		if err := s.r.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM notices WHERE kind = ?`, kind).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(NoticeGraphEnded); n != 10 {
		t.Errorf("%d of 10 ends of graphs are left", n)
	}
	if n := count(NoticeHTTP); n != keep/2-20 {
		t.Errorf("%d of requests over HTTP are left", n)
	}
	// Without any of those, the oldest give way.
	add(NoticeGraphEnded, keep)
	if untold, err = drop(); err != nil || untold != keep {
		t.Fatalf("%d untold, %v", untold, err)
	}
	if http, graphs := count(NoticeHTTP)+count(NoticeTFTPFailed), count(NoticeGraphEnded)+count(NoticeGraphStarted); http != 0 || graphs != keep {
		t.Errorf("%d of HTTP and TFTP, %d of graphs", http, graphs)
	}
}
