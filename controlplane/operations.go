package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api"
	"github.com/teeth-metal/teeth/controlplane/api/quota"
	"github.com/teeth-metal/teeth/controlplane/backup"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/systemd"
)

// OperationsConfig says what runs the server itself: limits, metrics, audit.
type OperationsConfig struct {
	// Metrics, if set, is an address where /metrics, /healthz and /readyz are
	// answered over plain HTTP to anybody. The REST interface has them too.
	Metrics string
	// Rate is how many requests per second one token may send to the REST
	// interface, twice as many one address. 0 is api's default, -1 no limit.
	Rate float64
}

func (c OperationsConfig) limits() api.Limits {
	return api.Limits{PerToken: c.Rate, PerAddress: 2 * c.Rate}
}

func (s *server) backup(ctx context.Context, w io.Writer, withImages bool) error {
	src := backup.Source{Dir: s.DataDir, Version: s.Version, Images: withImages, Save: s.store.Backup}
	if s.store.Shared() {
		src.Save, src.NoSave = nil, "PostgreSQL: back it up with pg_dump"
	}
	if path := s.minion.records.File(); path == "" {
		src.Records = "PostgreSQL: back them up with pg_dump"
	} else {
		src.Records = fmt.Sprintf("in %s: copy them with sqlite3 %s 'VACUUM INTO \"COPY\"'", path, path)
		// In the data directory it may have any name.
		if dir, err := filepath.Abs(filepath.Dir(path)); err == nil {
			if own, err := filepath.Abs(s.DataDir); err == nil && own == dir {
				src.Others = []string{filepath.Base(path)}
			}
		}
	}
	return backup.Write(ctx, w, src)
}

const (
	auditKept    = 100_000 // entries
	auditPruning = 10 * time.Minute
)

// startOperations starts what serves it. A part that ends with an error ends the server.
func (s *server) startOperations(ctx context.Context, start func(part func() error)) error {
	if err := s.metrics.Register(s.gateway, s.store, s.engine, s.images, s.hardware.pollers); err != nil {
		return err
	}
	if err := backup.Clean(s.DataDir); err != nil {
		return fmt.Errorf("remove what a backup has left: %w", err)
	}
	start(func() error { s.pruneAudit(ctx); return nil })
	if every := systemd.WatchdogInterval() / 3; every > 0 {
		start(func() error { s.feedWatchdog(ctx, every); return nil })
	}
	if s.Operations.Metrics == "" {
		return nil
	}
	l, err := listen(ctx, s.Operations.Metrics)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	s.metricsAddress = l.Addr().String()
	start(func() error { return s.serveMetrics(ctx, l) })
	return nil
}

func (s *server) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.Handle("GET /healthz", s.health)
	mux.Handle("GET /readyz", s.health)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         quota.NewConns(256, 32).ConnState,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics on %s: %w", l.Addr(), err)
	}
	return nil
}

// pruneAudit keeps the audit trail bounded, until ctx ends.
func (s *server) pruneAudit(ctx context.Context) {
	tick := time.NewTicker(auditPruning)
	defer tick.Stop()
	for {
		if err := s.store.PruneAudit(ctx, auditKept); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			s.Log.Error("the audit trail grows", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// feedWatchdog tells the service manager that the server lives as long as its locks
// are to be had. What it depends on is none of it: to be started anew brings back
// neither a database nor a disk.
func (s *server) feedWatchdog(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.gateway.Session("")
		s.store.Revision()
		s.tellManager(systemd.Alive)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) tellManager(state string) {
	if err := systemd.Notify(state); err != nil {
		s.Log.Warn("cannot tell the service manager", "state", state, "error", err)
	}
}
