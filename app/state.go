package app

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Installed returns what is there, by name. It does not wait for a change under way;
// config programs are asked, at the same time, and what they do not tell is in State's
// Error, with an empty Config.
func (h *Host) Installed(ctx context.Context) ([]State, error) {
	h.mu.Lock()
	apps := slices.Collect(maps.Values(h.apps))
	h.mu.Unlock()
	slices.SortFunc(apps, func(a, b *installed) int { return strings.Compare(a.name, b.name) })
	out := make([]State, len(apps))
	var wg sync.WaitGroup
	for i, a := range apps {
		wg.Go(func() { out[i] = h.state(ctx, a) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, nil
}

func (h *Host) state(ctx context.Context, a *installed) State {
	h.mu.Lock()
	st := State{
		Name: a.name, Version: a.rec.Version, URL: a.rec.URL, Digest: a.rec.Digest, Config: a.rec.Config, ConfigSet: a.rec.Config,
		ExitCode: a.exit, Services: map[string]bool{}, Running: len(a.services) > 0,
	}
	note := a.note
	h.mu.Unlock()
	var wrong []string
	if note != "" {
		wrong = append(wrong, note)
	}
	for _, name := range slices.Sorted(maps.Keys(a.services)) {
		s := a.services[name].State()
		st.Services[name] = s.Running
		st.Running = st.Running && s.Running
		st.Restarts += s.Restarts
		if s.Wanted && !s.Running && s.Last != nil {
			wrong = append(wrong, fmt.Sprintf("service %s: %s", name, s.Last))
		}
	}
	if a.desc.program != "" {
		c, err := h.askConfig(ctx, a)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		st.Config = c
	}
	st.Error = strings.Join(wrong, "; ")
	return st
}

// askConfig returns what the config program says.
func (h *Host) askConfig(ctx context.Context, a *installed) (json.RawMessage, error) {
	empty := json.RawMessage("{}")
	b, err := h.runConfig(ctx, a, "--get-config")
	if err != nil {
		return empty, err
	}
	c, err := compactObject(b)
	if err != nil {
		return empty, fmt.Errorf("%s --get-config: %w", a.desc.program, err)
	}
	return c, nil
}

// syncFiles makes an unpacked tree durable.
func syncFiles(tree *os.Root) error {
	f, err := tree.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
