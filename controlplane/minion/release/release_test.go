package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
)

type versions struct{ err error }

func (v versions) NewestAgentVersion(_ context.Context, kind, arch string, signed bool) (records.AgentVersion, error) {
	return records.AgentVersion{Version: "1.2.3", URL: "/boot/" + kind + "-" + arch, MD5: fmt.Sprint(signed), Signature: "s", SHA256: "d", Size: 7}, v.err
}

func TestVersionURL(t *testing.T) {
	for _, tt := range []struct {
		query string
		err   error
		code  int
		want  answer
	}{
		{"", nil, 200, answer{"1.2.3", "false", "http://h:1/boot/agent-", "d", "s", 7}},
		{"?kind=agent&arch=amd64", nil, 200, answer{"1.2.3", "true", "/boot/agent-amd64", "d", "s", 7}},
		{"?kind=image&arch=amd64", nil, 200, answer{"1.2.3", "true", "/boot/image-amd64", "d", "s", 7}},
		{"?kind=image", fmt.Errorf("x: %w", records.ErrNotFound), 404, answer{}},
		{"", errors.New("broken"), 503, answer{}},
		{"?kind=other", errors.New("asked for what cannot be"), 404, answer{}},
		{"?arch=a/b", errors.New("asked for what cannot be"), 404, answer{}},
	} {
		w := httptest.NewRecorder()
		Handler(versions{tt.err}, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "http://h:1"+Path+tt.query, nil))
		var got answer
		if w.Code == 200 {
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Error(err)
			}
		}
		if w.Code != tt.code || got != tt.want {
			t.Errorf("%s: %d, %+v", tt.query, w.Code, got)
		}
	}
}

// slow is a database that is, and counts who asks it.
type slow struct {
	now, most *atomic.Int64
	end       chan struct{}
}

func (s slow) NewestAgentVersion(context.Context, string, string, bool) (records.AgentVersion, error) {
	for n := s.now.Add(1); n > s.most.Load(); {
		s.most.Store(n)
	}
	<-s.end
	s.now.Add(-1)
	return records.AgentVersion{}, records.ErrNotFound
}

// Anybody on the boot network can ask, and does not take the database from others.
func TestFewAskAtOnce(t *testing.T) {
	db := slow{new(atomic.Int64), new(atomic.Int64), make(chan struct{})}
	h := Handler(db, slog.New(slog.DiscardHandler))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://h:1"+Path, nil)) })
	}
	for db.now.Load() < atOnce {
		time.Sleep(time.Millisecond)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "GET", "http://h:1"+Path, nil)) // waits for nothing
	close(db.end)
	all.Wait()
	if n := db.most.Load(); n != atOnce {
		t.Errorf("%d at once", n)
	}
}
