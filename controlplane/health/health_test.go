package health

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestChecks(t *testing.T) {
	c := &Checks{Log: slog.New(slog.DiscardHandler)}
	var made atomic.Int32
	var broken atomic.Bool
	c.Add("database", func(context.Context) error {
		made.Add(1)
		if broken.Load() {
			return errors.New("password secret wrong")
		}
		return nil
	})
	c.Add("bus", func(context.Context) error { return nil })
	ask := func(path string, want int, says string) {
		t.Helper()
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want || !strings.Contains(w.Body.String(), says) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { ask("/readyz", 200, `"ready":true`) })
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("20 questions made %d checks", n)
	}
	broken.Store(true)
	c.asking.Lock()
	c.at = time.Time{}
	c.asking.Unlock()
	ask("/readyz", 503, `"database":"failing"`)
	ask("/readyz", 503, `"bus":"ok"`)
	ask("/healthz", 200, "ok")
	ask("/other", 404, "")
}

// A client that does not wait must not leave the others a report of its impatience.
func TestClientThatIsGone(t *testing.T) {
	c := &Checks{Log: slog.New(slog.DiscardHandler)}
	c.Add("database", func(ctx context.Context) error { return ctx.Err() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.Report(ctx); !r.Ready {
		t.Errorf("%+v", r)
	}
}
