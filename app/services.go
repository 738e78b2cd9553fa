package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/sandbox"
	"github.com/teeth-metal/teeth/app/supervise"
)

// settle is how long Set watches whether a service that it has started stays up.
const settle = 300 * time.Millisecond

// maxGlob bounds the devices that one pattern may mean.
const maxGlob = 1024

// setup is the sandbox of an app for a command.
func (h *Host) setup(rec record, d *description, command []string) sandbox.Setup {
	s := sandbox.Setup{
		Root: filepath.Join(h.opt.Root, rec.Name, rec.Dir), Hostname: rec.Name, Command: command,
	}
	if m := d.manifest; m != nil {
		s.Host, s.Capabilities, s.WritableSys = m.Root == manifest.HostRoot, m.Capabilities, m.WritableSys
	}
	return s
}

// service makes what keeps a service running.
func (h *Host) service(a *installed, name string, m manifest.Service) *supervise.Service {
	return supervise.New(supervise.Config{
		Restart: m.Restart, StopSignal: unix.Signal(m.StopSignal), StopTimeout: time.Duration(m.StopTimeout),
		ReloadSignal: unix.Signal(m.ReloadSignal),
		Start:        func() (supervise.Process, error) { return h.start(a, name, m) },
		Ended:        func(e sandbox.Exit, again time.Duration) { h.ended(a, name, e, again) },
	})
}

// start runs a service once.
func (h *Host) start(a *installed, name string, m manifest.Service) (supervise.Process, error) {
	h.mu.Lock()
	rec := a.rec
	h.mu.Unlock()
	s := h.setup(rec, a.desc, m.Command)
	s.Env, s.EnvFiles, s.Expand, s.Dir, s.Forking = m.Env, m.EnvFiles, m.Expand, m.Dir, m.Forking
	var err error
	if s.UID, s.GID, err = user(m.User); err != nil {
		return nil, err
	}
	if s.Devices, err = devices(a.desc.manifest.Devices); err != nil {
		return nil, err
	}
	prefix := ""
	if len(a.services) > 1 {
		prefix = name + ": "
	}
	lines := sandbox.Lines(func(b []byte) { h.opt.Log(a.name, prefix+strings.ToValidUTF8(string(b), "\uFFFD")) })
	p, err := a.run(s, lines, lines)
	if err != nil {
		return nil, err
	}
	h.opt.Logger.Debug("app's service started", "app", a.name, "service", name, "pid", p.PID())
	return p, nil
}

// run starts a sandbox in the app's control group.
func (a *installed) run(s sandbox.Setup, stdout, stderr func(io.Reader)) (*sandbox.Process, error) {
	if a.group == nil {
		return sandbox.Start(s, nil, stdout, stderr)
	}
	g, err := a.group.Open()
	if err != nil {
		return nil, err
	}
	defer g.Close()
	return sandbox.Start(s, g, stdout, stderr)
}

// user reads "UID" or "UID:GID".
func user(s string) (uid, gid uint32, err error) {
	if s == "" {
		return 0, 0, nil
	}
	u, g, both := strings.Cut(s, ":")
	if !both {
		g = u
	}
	n, err := strconv.ParseUint(u, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("user: %w", err)
	}
	m, err := strconv.ParseUint(g, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("user: %w", err)
	}
	return uint32(n), uint32(m), nil
}

// devices resolves patterns into what is there now.
func devices(patterns []string) ([]string, error) {
	var out []string
	for _, p := range patterns {
		if !strings.ContainsAny(path.Base(p), `*?[\`) {
			out = append(out, p)
			continue
		}
		found, err := filepath.Glob(p)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", p, err)
		}
		for _, d := range found[:min(len(found), maxGlob)] {
			if st, err := os.Stat(d); err == nil && st.Mode()&os.ModeDevice != 0 {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// ended notes how a run of a service ended.
func (h *Host) ended(a *installed, name string, e sandbox.Exit, again time.Duration) {
	why, status := e.String(), e.Status()
	h.mu.Lock()
	if a.group != nil {
		if n := a.group.OOMKills(); n > a.ooms {
			a.ooms = n
			why = "out of memory: " + why
			a.note = fmt.Sprintf("service %s was out of memory: raise the app's limit", name)
		}
	}
	a.exit = &status
	var err error
	if again == 0 && h.apps[a.name] == a {
		if a.rec.Finished == nil {
			a.rec.Finished = map[string]int{}
		}
		a.rec.Finished[name] = status
		err = h.save(a.rec)
	}
	h.mu.Unlock()
	if err != nil {
		h.opt.Logger.Error("the end of an app's service is not kept: it will run again", "app", a.name, "service", name, "err", err)
	}
	text := "service " + name + " ended: " + why
	if again > 0 {
		text += "; it is started again in " + again.String()
	}
	h.opt.Log(a.name, text)
}

// resume starts the services that should run, but not those that have ended for good.
func (h *Host) resume(a *installed) {
	h.mu.Lock()
	rec := a.rec
	finished, on := maps.Clone(rec.Finished), maps.Clone(rec.Services)
	h.mu.Unlock()
	for name, s := range a.services {
		if !on[name] {
			continue
		}
		if status, ok := finished[name]; ok {
			s.Resume(sandbox.Exit{Code: status})
			continue
		}
		s.Start()
	}
}

// stop ends all that runs of an app, whatever it should do.
func (h *Host) stop(ctx context.Context, a *installed) error {
	return h.each(slices.Sorted(maps.Keys(a.services)), func(name string) error {
		return a.services[name].Stop(ctx)
	})
}

// each calls f for every service at the same time.
func (h *Host) each(names []string, f func(name string) error) error {
	results := make(chan error, len(names))
	for _, name := range names {
		go func() {
			err := f(name)
			if err != nil {
				err = fmt.Errorf("service %s: %w", name, err)
			}
			results <- err
		}()
	}
	var errs []error
	for range names {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// Set starts and stops services of an app: all, or if services is not nil those that
// it names, as it says. An error may be about a service that ended again at once; it
// goes on being started. ErrNothingToRun is wrapped for an app without services.
func (h *Host) Set(ctx context.Context, name string, running bool, services map[string]bool) error {
	h.ops.Lock()
	defer h.ops.Unlock()
	a, err := h.get(name)
	if err != nil {
		return err
	}
	if err := h.set(ctx, a, running, services); err != nil {
		return fmt.Errorf("app %s: %w", name, err)
	}
	return nil
}

func (h *Host) set(ctx context.Context, a *installed, running bool, services map[string]bool) error {
	want := services
	if services == nil {
		if running && len(a.services) == 0 {
			return nothingToRun(nil)
		}
		want = map[string]bool{}
		for name := range a.services {
			want[name] = running
		}
	}
	var on, off []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if a.services[name] == nil {
			return unknownService(name, a.desc.manifest.Services)
		}
		if want[name] {
			on = append(on, name)
		} else {
			off = append(off, name)
		}
	}
	lost := h.want(a, want)
	// What is to end ends, even if that cannot be kept: it may be what takes the room.
	err := h.each(off, func(name string) error { return a.services[name].Stop(ctx) })
	if lost != nil {
		return errors.Join(lost, err)
	}
	for _, name := range on {
		a.services[name].Start()
	}
	return errors.Join(err, h.each(on, func(name string) error {
		s := a.services[name]
		s.Settled(ctx, settle)
		st := s.State()
		switch {
		case st.Running || st.Last == nil:
			return nil
		case st.Finished:
			return fmt.Errorf("%s; it is not started again until it is switched off and on", st.Last)
		}
		return fmt.Errorf("%s; it is being started again", st.Last)
	}))
}

// want keeps how services should be.
func (h *Host) want(a *installed, want map[string]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	rec := a.rec
	rec.Services, rec.Finished = maps.Clone(rec.Services), maps.Clone(rec.Finished)
	if rec.Services == nil {
		rec.Services = map[string]bool{}
	}
	for name, on := range want {
		// It may have ended for good after it was switched off.
		if !on || !rec.Services[name] {
			delete(rec.Finished, name)
		}
		rec.Services[name] = on
	}
	if err := h.save(rec); err != nil {
		return err
	}
	a.rec, a.note = rec, ""
	return nil
}

func unknownService(name string, services map[string]manifest.Service) error {
	if len(services) == 0 {
		return fmt.Errorf("service %.80q: %w: the app has no services", name, ErrNothingToRun)
	}
	return fmt.Errorf("no service %.80q: the app has %s", name, strings.Join(slices.Sorted(maps.Keys(services)), ", "))
}
