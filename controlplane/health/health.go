// Package health answers whether a server lives (/healthz) and whether it can do
// its work (/readyz).
//
// Anybody may ask, so an answer names what fails and no more; why is in the log. A
// check is made at most every two seconds, however many ask.
package health

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	fresh   = 2 * time.Second
	timeout = 5 * time.Second // of all checks together
)

// Checks are what a server needs to do its work. The zero value with a Log is ready
// for use, by many goroutines.
type Checks struct {
	Log *slog.Logger

	mu     sync.Mutex
	checks []check

	asking sync.Mutex // held while the checks are made
	last   Report
	at     time.Time
}

type check struct {
	name string
	ok   func(context.Context) error
}

// Report is what /readyz answers.
type Report struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"` // "ok" or "failing"
}

// Add adds a check. It returns within its context's time.
func (c *Checks) Add(name string, ok func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks = append(c.checks, check{name, ok})
}

// Report makes the checks, unless that was done just now.
func (c *Checks) Report(ctx context.Context) Report {
	c.asking.Lock()
	defer c.asking.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < fresh {
		return c.last
	}
	c.mu.Lock()
	checks := slices.Clone(c.checks)
	c.mu.Unlock()
	// Somebody who does not wait for the answer must not make it a bad one for others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	errs := make([]error, len(checks))
	var all sync.WaitGroup
	for i, k := range checks {
		all.Go(func() { errs[i] = k.ok(ctx) })
	}
	all.Wait()
	r := Report{Ready: true, Checks: map[string]string{}}
	for i, k := range checks {
		r.Checks[k.name] = "ok"
		if errs[i] != nil {
			r.Ready, r.Checks[k.name] = false, "failing"
			if c.last.Checks[k.name] != "failing" {
				c.Log.Error("not ready", "check", k.name, "error", errs[i])
			}
		} else if c.last.Checks[k.name] == "failing" {
			c.Log.Info("ready again", "check", k.name)
		}
	}
	c.last, c.at = r, time.Now()
	return r
}

// ServeHTTP answers GET /healthz with 200, and GET /readyz with a Report as JSON and
// 200 or 503.
func (c *Checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Path {
	case "/healthz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte("ok\n"))
	case "/readyz":
		report := c.Report(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if !report.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(report)
	default:
		http.NotFound(w, r)
	}
}
