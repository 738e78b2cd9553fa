package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/command"
	"github.com/teeth-metal/teeth/agent/minion/spool"
	"github.com/teeth-metal/teeth/agent/minion/tail"
	"github.com/teeth-metal/teeth/agent/minion/telemetry"
	"github.com/teeth-metal/teeth/agent/upgrade"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// service is what the agent's own log is called.
const service = "agent"

// host is one run of the agent.
type host struct {
	version string
	path    string // of the configuration
	c       Config
	stderr  io.Writer
	began   time.Time

	log    *slog.Logger // to stderr; once there is a client, to the StreamServer, too
	end    context.CancelCauseFunc
	spool  *spool.Spool
	client *minion.Client
	runner *command.Runner

	working context.Context // ends when the agent is to end
	mu      sync.Mutex
	ending  bool // no order is taken any more
	orders  sync.WaitGroup
}

func newHost(version, path string, c Config, stderr io.Writer) *host {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return &host{version: version, path: path, c: c, stderr: stderr, began: time.Now(), log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.Log}))}
}

// run runs the agent until ctx ends. A *replacement is no failure.
func (h *host) run(ctx context.Context) error {
	ctx, h.end = context.WithCancelCause(ctx)
	defer h.end(nil)
	h.working = ctx
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	trial, err := h.trial()
	if err != nil {
		return err
	}
	if err := h.open(); err != nil {
		return err
	}
	if st, err := os.Stat(h.path); err == nil && st.Mode().Perm()&0o044 != 0 && h.c.GroupKey != "" {
		h.log.Warn("others can read the configuration, and with it group_key: chmod 600, or use group_key_file", "config", h.path)
	}
	h.log.Info("agent starts", "version", h.version, "config", h.path, "group", h.c.GroupID, "id", h.c.ServerID, "name", h.c.ServerName)
	h.work(ctx, trial)
	err = context.Cause(ctx)
	var next *replacement
	if !errors.As(err, &next) {
		err = nil // told to end
	}
	return errors.Join(err, h.spool.Close())
}

// lock keeps a second agent away from the spool.
func (h *host) lock() (unlock func(), err error) {
	if err := os.MkdirAll(h.c.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(h.c.Spool, "agent.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("spool %s is in use by another agent: %w", h.c.Spool, err)
	}
	return func() { f.Close() }, nil
}

// inUse reports whether an agent runs.
func (h *host) inUse() bool {
	unlock, err := h.lock()
	if err != nil {
		return errors.Is(err, unix.EWOULDBLOCK)
	}
	unlock()
	return false
}

func (h *host) upgrader() (*upgrade.Upgrader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	root, err := upgrade.FindRoot(self)
	if err != nil {
		return nil, err
	}
	if h.c.Upgrade == "" || h.c.UpgradeKey == "" {
		return nil, errors.New("the configuration has no upgrade (the version URL) and upgrade_key")
	}
	key, err := upgrade.ParseKey(h.c.UpgradeKey)
	if err != nil {
		return nil, err
	}
	return &upgrade.Upgrader{URL: h.c.Upgrade, Key: key, Version: h.version, Root: root, Config: h.path, Log: h.log}, nil
}

// trial counts the start of a version on trial, or goes back to the one before.
func (h *host) trial() (left time.Duration, err error) {
	u, err := h.upgrader()
	if err != nil {
		return 0, nil // cannot be one
	}
	left, back, err := u.Begin()
	if back && err == nil {
		return 0, &replacement{program: u.Link()}
	}
	if err != nil {
		h.log.Error("an upgrade is not followed up", "err", err)
	}
	return left, nil
}

// open makes the parts.
func (h *host) open() (err error) {
	quiet := h.log // what the spool says must not go into the spool while it is locked
	h.spool, err = spool.Open(spool.Options{Dir: filepath.Join(h.c.Spool, "records"), Disk: int64(h.c.SpoolSize), Log: quiet})
	if err != nil {
		return err
	}
	h.client, err = minion.New(minion.Options{Spool: h.spool, Orders: h.order, Log: h.log})
	if err != nil {
		return errors.Join(err, h.spool.Close())
	}
	h.log = slog.New(slog.NewMultiHandler(h.log.Handler(), slog.NewTextHandler(lines{h.client}, &slog.HandlerOptions{Level: h.c.Log})))
	target, err := h.c.target()
	if err == nil {
		err = h.client.SetTarget(target)
	}
	if err == nil {
		h.runner, err = command.New(command.Config{Policy: h.c.Commands, Internal: h.internal(), Secret: secretCommands, Log: h.log})
	}
	if err != nil {
		return errors.Join(err, h.spool.Close())
	}
	return nil
}

// lines sends lines of the agent's own log.
type lines struct{ client *minion.Client }

func (l lines) Write(b []byte) (int, error) {
	l.client.Log(service, strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// work does everything until ctx ends, and what is left to do then.
func (h *host) work(ctx context.Context, trial time.Duration) {
	// The connection outlives ctx, for the last answers and lines.
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var delivery, sources sync.WaitGroup
	delivery.Go(func() { _ = h.client.Run(delivering) }) // ends with delivering, and for no other reason
	if t, err := telemetry.New(h.c.telemetry(h.measured, h.log)); err != nil {
		h.log.Error("no telemetry", "err", err)
	} else {
		sources.Go(func() { _ = t.Run(ctx) })
	}
	if t, err := tail.New(h.tail()); err != nil {
		h.log.Error("no log files are followed", "err", err)
	} else {
		sources.Go(func() { _ = t.Run(ctx) })
	}
	if trial > 0 {
		sources.Go(func() { h.watch(ctx, trial) })
	}
	<-ctx.Done()
	h.log.Info("agent ends", "cause", context.Cause(ctx))
	sources.Wait()
	h.mu.Lock()
	h.ending = true // what comes now is refused, as its context has ended
	h.mu.Unlock()
	h.orders.Wait()
	flushing, cancel := context.WithTimeout(delivering, flushTime)
	defer cancel()
	if err := h.client.Flush(flushing); err != nil {
		h.log.Info("some records stay in the spool until the next start", "err", err)
	}
	stop()
	delivery.Wait()
}

func noLine(context.Context, string, string) error { return nil }

// tail is the files that are followed. They are not read while half of the spool is
// used: what they hold is on disk already.
func (h *host) tail() tail.Config {
	size := int64(h.c.SpoolSize)
	if size == 0 {
		size = spool.DefaultDisk
	}
	return tail.Config{
		Files: h.c.TailLogs, State: filepath.Join(h.c.Spool, "files.json"), Line: h.client.LogWait, Log: h.log,
		Room: func(ctx context.Context) error {
			for h.spool.Stats().Disk > size/2 {
				if err := sleep(ctx, time.Second); err != nil {
					return err
				}
			}
			return nil
		},
		Sync: func(ctx context.Context) error { return sleep(ctx, spool.DefaultDelay+spool.DefaultSync) },
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (h *host) measured(label string, values ...string) {
	if err := h.client.Telemetry(label, values...); err != nil {
		h.log.Warn("a measurement is not sent", "err", err)
	}
}

// watch ends the trial of a new version.
func (h *host) watch(ctx context.Context, left time.Duration) {
	u, err := h.upgrader()
	if err != nil {
		return // it was there when the trial began
	}
	connected := make(chan struct{})
	go func() {
		for sleep(ctx, 500*time.Millisecond) == nil {
			if _, ok := h.client.Connected(); ok {
				close(connected)
				return
			}
		}
	}()
	back, err := u.Watch(ctx, left, connected)
	switch {
	case err != nil:
		h.log.Error("trial of the new version", "err", err)
	case back:
		h.end(&replacement{program: u.Link()})
	case ctx.Err() == nil:
		h.log.Info("the new version has connected and is kept", "version", h.version)
	}
}

// order carries out a command. Programs end with the agent; their last answers are
// still sent.
func (h *host) order(_ context.Context, o wire.Order, from minion.Peer, answer func(wire.Result)) {
	h.mu.Lock()
	if !h.ending {
		h.orders.Add(1)
		defer h.orders.Done()
	}
	h.mu.Unlock()
	h.runner.Run(h.working, o, command.Peer{Address: from.Address, Trusted: from.Trusted, Streams: from.Streams}, answer)
}

// self is the program to start again.
func self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	if root, err := upgrade.FindRoot(path); err == nil {
		link := (&upgrade.Upgrader{Root: root}).Link()
		if _, err := os.Stat(link); err == nil {
			return link, nil
		}
	}
	return path, nil
}
