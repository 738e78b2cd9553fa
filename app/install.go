package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/app/archive"
	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/packages"
	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/progress"
)

// programTime is how long a config program may take.
const programTime = time.Minute

// Install makes an app what spec says, whether it is there or not: fetches its package,
// unpacks it, configures and starts it. What is there of another version runs until
// the new one is unpacked; its files are gone then, those that it wrote included. An
// error before that point leaves all as it was; one after it, the new version, which
// Configure and Set can put right. report gets bytes of the package. ctx ends all but
// the step from the old version to the new.
func (h *Host) Install(ctx context.Context, spec Spec, report progress.Func) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	h.ops.Lock()
	defer h.ops.Unlock()
	a, err := h.replace(ctx, spec, report)
	if err == nil {
		err = h.configure(ctx, a, spec.Config)
	}
	if err == nil {
		h.resume(a)
		err = h.set(ctx, a, spec.Running, spec.Services)
	}
	if err != nil {
		return fmt.Errorf("app %s %s: %w", spec.Name, spec.Version, noRoom(err))
	}
	return nil
}

// noRoom makes errors about room those of this package.
func noRoom(err error) error {
	if errors.Is(err, imagecache.ErrNoRoom) || errors.Is(err, archive.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	return err
}

// replace brings the files of spec in the place of those that are there.
func (h *Host) replace(ctx context.Context, spec Spec, report progress.Func) (*installed, error) {
	pkg, err := h.fetch(ctx, spec, report)
	if err != nil {
		return nil, err
	}
	rec, err := h.unpack(ctx, spec, pkg)
	if err = errors.Join(err, pkg.Close()); err != nil {
		return nil, errors.Join(err, h.discard(spec.Name, rec.Dir))
	}
	ctx = context.WithoutCancel(ctx)
	a, err := h.make(rec)
	if err == nil {
		err = h.exchange(ctx, a)
	}
	if err != nil {
		return nil, errors.Join(err, h.ungroup(ctx, spec.Name), h.discard(spec.Name, rec.Dir))
	}
	return a, nil
}

// ungroup removes the control group that was made for an app in vain.
func (h *Host) ungroup(ctx context.Context, name string) error {
	if _, err := h.get(name); err == nil || h.tree == nil {
		return nil
	}
	return h.tree.Remove(ctx, name)
}

// discard removes files that were unpacked for nothing, and the app's directory if there
// is nothing else.
func (h *Host) discard(name, dir string) error {
	var err error
	if dir != "" {
		err = h.root.RemoveAll(filepath.Join(name, dir))
	}
	_ = h.root.Remove(name) // it is not empty if there is an older version
	return err
}

func (h *Host) fetch(ctx context.Context, spec Spec, report progress.Func) (*packages.Package, error) {
	hashes, err := spec.hashes()
	if err != nil {
		return nil, err
	}
	if hashes == nil {
		h.opt.Logger.Warn("package is not verified: its app has no digest", "app", spec.Name, "version", spec.Version)
	}
	free, err := room(h.opt.Cache)
	if err != nil {
		return nil, err
	}
	return h.cache.Get(ctx, imagecache.Object{
		Name: "package of " + spec.Name + " " + spec.Version, URLs: []string{spec.URL}, Hashes: hashes, Size: spec.Size,
	}, free, report)
}

// unpack makes the app's new files, and finds out what they are. The record's Dir is set
// as soon as there may be some.
func (h *Host) unpack(ctx context.Context, spec Spec, pkg *packages.Package) (rec record, err error) {
	free, err := room(h.opt.Root)
	if err != nil {
		return rec, err
	}
	bounds := h.opt.Unpacked
	bounds.Bytes = min(bounds.Bytes, free)
	r, err := archive.New(ctx, pkg, pkg.Size, bounds)
	if err != nil {
		return rec, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if arch := r.GoArch(); arch != "" && arch != runtime.GOARCH {
		return rec, fmt.Errorf("package %s is for %s, this machine is %s", r.Name, r.Arch, runtime.GOARCH)
	}
	if r.Installed > bounds.Bytes {
		return rec, fmt.Errorf("%w: package %s unpacks to %d bytes, %d are free", ErrNoRoom, r.Name, r.Installed, bounds.Bytes)
	}
	rec = record{
		Name: spec.Name, Version: spec.Version, URL: spec.URL, Digest: spec.Digest, Config: json.RawMessage("{}"),
		Limits: spec.Limits, Services: map[string]bool{},
	}
	if rec.Digest == "" {
		rec.Digest = "sha256:" + pkg.SHA256
	}
	if err := h.root.MkdirAll(spec.Name, 0o700); err != nil {
		return rec, err
	}
	rec.Dir = h.newDir(spec.Name)
	dir := filepath.Join(spec.Name, rec.Dir)
	if err := h.root.Mkdir(dir, 0o755); err != nil {
		return rec, err
	}
	tree, err := h.root.OpenRoot(dir)
	if err != nil {
		return rec, err
	}
	defer tree.Close()
	if _, err := r.Unpack(tree); err != nil {
		return rec, err
	}
	if err := tree.Chmod(".", 0o755); err != nil { // whatever the package says of ./
		return rec, err
	}
	if r.Special > 0 {
		h.opt.Logger.Warn("devices, pipes or sockets of a package are left out", "app", spec.Name, "count", r.Special)
	}
	if err := syncFiles(tree); err != nil {
		return rec, err
	}
	return rec, h.describe(ctx, &rec, spec, tree)
}

// describe puts into the record what the unpacked package says.
func (h *Host) describe(ctx context.Context, rec *record, spec Spec, tree *os.Root) error {
	run := func(program string, args ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, programTime)
		defer cancel()
		s := h.setup(*rec, &description{}, append([]string{program}, args...))
		return runProgram(ctx, s, nil)
	}
	d, err := describe(spec, tree, run)
	if err != nil {
		return err
	}
	for _, why := range d.skipped {
		h.opt.Logger.Warn("not a service of the app", "app", spec.Name, "why", why)
	}
	text, err := d.manifest.Marshal()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	rec.Manifest, rec.Program = string(text), d.program
	c, err := spec.config()
	if err != nil {
		return err
	}
	if err := d.deliverable(c); err != nil {
		return err
	}
	for name := range spec.Services {
		if _, ok := d.manifest.Services[name]; !ok {
			return unknownService(name, d.manifest.Services)
		}
	}
	h.carry(rec, spec.Services, d.manifest.Services)
	if spec.Services == nil && spec.Running && len(d.manifest.Services) == 0 {
		return nothingToRun(d.skipped)
	}
	return nil
}

// carry leaves services as they are in the version that is there, if want names only
// others.
func (h *Host) carry(rec *record, want map[string]bool, there map[string]manifest.Service) {
	if want == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.apps[rec.Name]
	if old == nil {
		return
	}
	for name, on := range old.rec.Services {
		_, named := want[name]
		if _, ok := there[name]; ok && !named {
			rec.Services[name] = on
		}
	}
}

func nothingToRun(skipped []string) error {
	why := "its package has no manifest, unit or init script that says what"
	if len(skipped) > 0 {
		why = strings.Join(skipped, "; ")
	}
	return fmt.Errorf("%w: %s", ErrNothingToRun, why)
}

// newDir returns a name that is free.
func (h *Host) newDir(app string) string {
	for n := 1; ; n++ {
		dir := treePrefix + strconv.Itoa(n)
		if _, err := h.root.Lstat(filepath.Join(app, dir)); errors.Is(err, fs.ErrNotExist) {
			return dir
		}
	}
}

// exchange puts a in the place of what is there under its name.
func (h *Host) exchange(ctx context.Context, a *installed) error {
	h.mu.Lock()
	old := h.apps[a.name]
	h.mu.Unlock()
	if old != nil {
		if err := h.stop(ctx, old); err != nil {
			h.resume(old)
			return err
		}
	}
	h.mu.Lock()
	err := h.save(a.rec)
	if err == nil {
		h.apps[a.name] = a
	}
	h.mu.Unlock()
	if err != nil {
		if old != nil {
			h.resume(old)
		}
		return err
	}
	if old == nil {
		return nil
	}
	if err := h.root.RemoveAll(filepath.Join(a.name, old.rec.Dir)); err != nil {
		h.opt.Logger.Warn("files of an old version stay until the next start", "app", a.name, "err", err)
	}
	return nil
}

// Remove stops an app and removes its files. One that is not there is no error.
func (h *Host) Remove(ctx context.Context, name string) error {
	h.ops.Lock()
	defer h.ops.Unlock()
	a, err := h.get(name)
	if errors.Is(err, ErrNotInstalled) {
		return nil
	}
	if err == nil {
		err = h.remove(ctx, a)
	}
	if err != nil {
		return fmt.Errorf("remove app %s: %w", name, err)
	}
	return nil
}

func (h *Host) remove(ctx context.Context, a *installed) error {
	if err := h.stop(ctx, a); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if a.group != nil {
		if err := a.group.Remove(ctx); err != nil {
			return err
		}
	}
	// Without its record it is gone, even if the rest is interrupted.
	h.mu.Lock()
	err := h.root.Remove(filepath.Join(a.name, recordFile))
	if err == nil {
		delete(h.apps, a.name)
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return errors.Join(h.syncDir(a.name), h.root.RemoveAll(a.name), h.syncDir("."))
}
