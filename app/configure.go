package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/teeth-metal/teeth/app/config"
	"github.com/teeth-metal/teeth/app/manifest"
)

// Configure gives an app its configuration, a JSON object, and lets services that run
// take notice: by their reload signal, or by starting them again.
func (h *Host) Configure(ctx context.Context, name string, config json.RawMessage) error {
	h.ops.Lock()
	defer h.ops.Unlock()
	a, err := h.get(name)
	if err != nil {
		return err
	}
	if err := h.configure(ctx, a, config); err != nil {
		return fmt.Errorf("app %s: %w", name, err)
	}
	return nil
}

func (h *Host) configure(ctx context.Context, a *installed, c json.RawMessage) error {
	c, err := compactObject(c)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if err := a.desc.deliverable(c); err != nil {
		return err
	}
	if a.desc.program != "" {
		_, err = h.runConfig(ctx, a, "--set-config", string(c))
	} else if to := a.desc.manifest.Config; to != nil {
		err = h.writeConfig(a, *to, c)
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	rec := a.rec
	same := bytes.Equal(rec.Config, c)
	rec.Config = c
	if !same {
		rec.Finished = nil // what has ended for good runs once more, see Reload
	}
	if err = h.save(rec); err == nil {
		a.rec = rec
	}
	h.mu.Unlock()
	if err != nil || same {
		return err
	}
	err = h.each(slices.Sorted(maps.Keys(a.services)), func(name string) error { return a.services[name].Reload(ctx) })
	if err != nil {
		return fmt.Errorf("take notice of the configuration: %w", err)
	}
	return nil
}

// runConfig runs the app's config program.
func (h *Host) runConfig(ctx context.Context, a *installed, args ...string) ([]byte, error) {
	h.mu.Lock()
	rec := a.rec
	h.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, programTime, fmt.Errorf("it takes more than %s", programTime))
	defer cancel()
	s := h.setup(rec, a.desc, append([]string{a.desc.program}, args...))
	if a.group == nil {
		return runProgram(ctx, s, nil)
	}
	g, err := a.group.Open()
	if err != nil {
		return nil, err
	}
	defer g.Close()
	return runProgram(ctx, s, g)
}

// writeConfig replaces the file of a manifest. The app can read it, whoever it runs as;
// on the machine, nobody else gets there.
func (h *Host) writeConfig(a *installed, to manifest.Config, c json.RawMessage) error {
	b, err := config.Render(to.Format, c)
	if err != nil {
		return err
	}
	h.mu.Lock()
	dir := path.Join(a.name, a.rec.Dir)
	h.mu.Unlock()
	tree, err := h.root.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer tree.Close()
	name := to.Path[1:]
	if err := tree.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	temporary := name + ".teeth-new"
	if err := tree.RemoveAll(temporary); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	f, err := tree.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = tree.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("config: %w", err), tree.RemoveAll(temporary))
	}
	return nil
}
