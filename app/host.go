package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/archive"
	"github.com/teeth-metal/teeth/app/cgroup"
	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/packages"
	"github.com/teeth-metal/teeth/app/supervise"
	"github.com/teeth-metal/teeth/imagecache"
)

// Options of a Host. Only Root is needed.
type Options struct {
	// Root is the directory that apps are unpacked in; nothing else may be there.
	Root string
	// Memory, if not 0, makes Root a file system in memory of so many bytes, unless
	// one is mounted there already.
	Memory int64
	// Cache is the directory of packages; Root/.packages if empty. Packages that no
	// Install is using take at most MaxCache bytes there; with 0, none is kept.
	Cache    string
	MaxCache int64
	// Unpacked bounds what one package may unpack to; what is 0 is 4 GiB, and 100,000
	// files. It is never more than there is room for.
	Unpacked archive.Bounds
	// Limits are for apps that neither their Spec nor their manifest limits. What is
	// 0 is a quarter of the machine's memory and 512 processes; processors are not
	// limited, but the agent goes first.
	Limits Limits
	// ControlGroup is the name of the control group that has those of apps in it;
	// "teeth-apps" if empty. Two hosts on one machine need two.
	ControlGroup string
	// Log gets what apps write, line by line, from several goroutines; while it does
	// not return, the app waits. Nil logs it to Logger.
	Log    func(app, line string)
	Logger *slog.Logger // nil is slog.Default
	// Fetch gets packages; its zero value works.
	Fetch imagecache.Fetcher
}

func (o Options) defaults() Options {
	if o.Cache == "" {
		o.Cache = filepath.Join(o.Root, ".packages")
	}
	if o.Unpacked.Bytes <= 0 {
		o.Unpacked.Bytes = 4 << 30
	}
	if o.Unpacked.Entries <= 0 {
		o.Unpacked.Entries = 100_000
	}
	o.Limits = o.Limits.Or(Limits{Memory: max(memoryTotal()/4, 16<<20), PIDs: 512})
	if o.ControlGroup == "" {
		o.ControlGroup = "teeth-apps"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Log == nil {
		o.Log = func(app, line string) { o.Logger.Info(line, "app", app) }
	}
	return o
}

// Host has apps. It is safe for concurrent use; one change is made at a time.
type Host struct {
	opt   Options
	root  *os.Root
	cache *packages.Cache
	tree  *cgroup.Tree // nil: the machine cannot

	ops  sync.Mutex // held while something is changed
	mu   sync.Mutex // of apps and what is in them, never held for long
	apps map[string]*installed
}

// installed is an app that is there. What is not below mu never changes.
type installed struct {
	name     string
	desc     *description
	services map[string]*supervise.Service
	group    *cgroup.Group // nil: the machine cannot

	rec  record // below Host.mu, as the rest
	exit *int
	note string // what is wrong beside what services tell
	ooms int64
}

// Open uses a directory that has apps, or makes it. What ran when the last process that
// used it ended has ended with that; services that should run are started again. Apps
// that an interrupted change left in pieces are removed. Close ends what Open began.
func Open(ctx context.Context, opt Options) (*Host, error) {
	if !filepath.IsAbs(opt.Root) {
		return nil, fmt.Errorf("apps: root %q is not an absolute path", opt.Root)
	}
	opt = opt.defaults()
	h := &Host{opt: opt, apps: map[string]*installed{}}
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("apps: %w", err), h.release())
	}
	for _, a := range h.apps {
		h.resume(a)
	}
	return h, nil
}

func (h *Host) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(h.opt.Root, 0o700); err != nil {
		return err
	}
	if h.opt.Memory > 0 {
		if err := inMemory(h.opt.Root, h.opt.Memory); err != nil {
			return err
		}
	}
	if h.root, err = os.OpenRoot(h.opt.Root); err != nil {
		return err
	}
	if h.cache, err = packages.Open(h.opt.Cache, h.opt.MaxCache, h.opt.Fetch); err != nil {
		return err
	}
	h.tree, err = cgroup.Open(ctx, h.opt.ControlGroup)
	if errors.Is(err, cgroup.ErrUnavailable) {
		h.opt.Logger.Warn("apps run without limits", "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	return h.load()
}

// inMemory mounts a tmpfs.
func inMemory(dir string, size int64) error {
	if there, err := mountinfo.Mounted(dir); err != nil || there {
		return err
	}
	data := fmt.Sprintf("size=%d,mode=0700", size)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// load reads what is there, and sweeps up.
func (h *Host) load() error {
	names, err := h.names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !nameRE.MatchString(name) {
			continue // the cache, or not ours
		}
		var a *installed
		rec, err := h.readRecord(name)
		if err == nil {
			a, err = h.make(rec)
		}
		if err == nil {
			h.apps[name] = a
			err = h.sweep(name, rec.Dir)
		} else {
			if !errors.Is(err, fs.ErrNotExist) {
				h.opt.Logger.Error("app is lost: what was kept of it cannot be used", "app", name, "err", err)
			}
			err = h.root.RemoveAll(name)
		}
		if err != nil {
			return fmt.Errorf("app %s: %w", name, err)
		}
	}
	return nil
}

func (h *Host) names(dir string) ([]string, error) {
	f, err := h.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// make prepares to run an app.
func (h *Host) make(rec record) (*installed, error) {
	m, err := manifest.Parse([]byte(rec.Manifest))
	if err != nil {
		return nil, err
	}
	a := &installed{
		name: rec.Name, rec: rec, desc: &description{manifest: m, program: rec.Program},
		services: map[string]*supervise.Service{},
	}
	if a.group, err = h.group(rec.Name, rec.Limits, m.Limits); err != nil {
		return nil, err
	}
	if a.group != nil {
		a.ooms = a.group.OOMKills()
	}
	for name, s := range m.Services {
		a.services[name] = h.service(a, name, s)
	}
	return a, nil
}

// group makes the app's control group with its limits. Those that nobody asked for are
// left out where the machine cannot keep them.
func (h *Host) group(name string, spec, own Limits) (*cgroup.Group, error) {
	limits := spec.Or(own)
	if h.tree == nil {
		if limits != (Limits{}) {
			return nil, fmt.Errorf("limits: %w: version 2 is not mounted", cgroup.ErrUnavailable)
		}
		return nil, nil
	}
	others := h.opt.Limits
	if !h.tree.Can("memory") {
		others.Memory = 0
	}
	if !h.tree.Can("pids") {
		others.PIDs = 0
	}
	if !h.tree.Can("cpu") {
		others.CPU = 0
	}
	g, err := h.tree.Group(name)
	if err != nil {
		return nil, err
	}
	return g, g.Limit(limits.Or(others))
}

// Close stops every app and releases everything; what is installed stays.
func (h *Host) Close(ctx context.Context) error {
	h.ops.Lock()
	defer h.ops.Unlock()
	h.mu.Lock()
	apps := h.apps
	h.apps = map[string]*installed{}
	h.mu.Unlock()
	var errs []error
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, a := range apps {
		wg.Go(func() {
			err := h.stop(ctx, a)
			if a.group != nil {
				err = errors.Join(err, a.group.Remove(ctx))
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), h.release())
}

func (h *Host) release() error {
	var errs []error
	if h.tree != nil {
		errs = append(errs, h.tree.Close())
	}
	if h.cache != nil {
		errs = append(errs, h.cache.Close())
	}
	if h.root != nil {
		errs = append(errs, h.root.Close())
	}
	return errors.Join(errs...)
}

// get returns an app that is there.
func (h *Host) get(name string) (*installed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.apps[name]
	if a == nil {
		return nil, fmt.Errorf("app %.80s: %w", name, ErrNotInstalled)
	}
	return a, nil
}
