// Package cgroup puts the processes of apps into control groups, version 2
// (Documentation/admin-guide/cgroup-v2.rst of Linux), to limit and to end them.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/manifest"
)

// ErrUnavailable is wrapped when this machine cannot do what is asked.
var ErrUnavailable = errors.New("control groups cannot do that on this machine")

// Tree is a group that holds one group for each app.
type Tree struct {
	path        string
	controllers map[string]bool // that groups below have
}

// wanted are the controllers that limits need.
var wanted = []string{"memory", "pids", "cpu"}

// Open makes the group name in the hierarchy of version 2, wherever that is mounted,
// and empties it: what is in it was started by a process that is no more, and is
// killed. The error wraps ErrUnavailable when there is no such hierarchy.
func Open(ctx context.Context, name string) (*Tree, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("%w: version 2 is not mounted", ErrUnavailable)
	}
	top := mounts[0].Mountpoint
	t := &Tree{path: filepath.Join(top, name), controllers: map[string]bool{}}
	if err := os.Mkdir(t.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	enable(top)
	for _, c := range enable(t.path) {
		t.controllers[c] = true
	}
	names, err := t.groups()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, t.group(n).Remove(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// enable gives the groups below dir the controllers wanted, one by one, as the kernel
// may lack some; it returns those that they have.
func enable(dir string) []string {
	path := filepath.Join(dir, "cgroup.subtree_control")
	for _, c := range wanted {
		_ = os.WriteFile(path, []byte("+"+c), 0) // what came of it, the file tells
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

func (t *Tree) groups() ([]string, error) {
	entries, err := os.ReadDir(t.path)
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Close removes the tree, whose groups must have been removed.
func (t *Tree) Close() error {
	if err := os.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control groups: %w", err)
	}
	return nil
}

// Group is the group of one app.
type Group struct {
	path string
	tree *Tree
}

func (t *Tree) group(name string) *Group { return &Group{filepath.Join(t.path, name), t} }

// Group makes the group of an app, or finds it.
func (t *Tree) Group(name string) (*Group, error) {
	g := t.group(name)
	if err := os.Mkdir(g.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	if t.controllers["memory"] {
		// An app that lost one of its processes at random is in no state to go on.
		if err := g.write("memory.oom.group", "1"); err != nil {
			return nil, err
		}
	}
	if t.controllers["cpu"] {
		// Half of the default: the agent's own work goes first.
		if err := g.write("cpu.weight", "50"); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Remove kills what is in the group of an app and removes it, if there is one.
func (t *Tree) Remove(ctx context.Context, name string) error { return t.group(name).Remove(ctx) }

// Limit sets the limits of the group; what is 0 is not limited. The error wraps
// ErrUnavailable when a limit cannot be kept here.
func (g *Group) Limit(l manifest.Limits) error {
	const period = 100000 // microseconds
	settings := []struct {
		controller, file, value string
		asked                   bool
	}{
		{"memory", "memory.max", strconv.FormatInt(l.Memory, 10), l.Memory > 0},
		{"pids", "pids.max", strconv.FormatInt(l.PIDs, 10), l.PIDs > 0},
		{"cpu", "cpu.max", fmt.Sprintf("%d %d", int64(l.CPU*period), period), l.CPU > 0},
	}
	for _, s := range settings {
		if s.asked && !g.tree.controllers[s.controller] {
			return fmt.Errorf("%w: limit the use of %s, the kernel has no such controller in version 2", ErrUnavailable, s.controller)
		}
	}
	for _, s := range settings {
		if !g.tree.controllers[s.controller] {
			continue
		}
		if !s.asked {
			s.value = "max"
		}
		if err := g.write(s.file, s.value); err != nil {
			return err
		}
	}
	// Swap would make the limit of memory one of time.
	if g.tree.controllers["memory"] && l.Memory > 0 {
		if err := g.write("memory.swap.max", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Can reports whether limits of memory, pids or cpu can be kept.
func (t *Tree) Can(controller string) bool { return t.controllers[controller] }

// Open returns the group's directory, to start a process in it.
func (g *Group) Open() (*os.File, error) {
	f, err := os.OpenFile(g.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	return f, nil
}

// OOMKills is how many processes were killed for the limit of memory so far.
func (g *Group) OOMKills() int64 {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return 0 // no such controller
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// Memory is how many bytes the group uses, 0 if that is not counted here.
func (g *Group) Memory() int64 {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.current"))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// lost is how long killed processes may take to end. One that waits for hardware does
// not end before that answers, and must not hold up all other apps, nor the agent.
const lost = 10 * time.Second

// kill sends SIGKILL to every process of the group and waits for their end. The group
// is of no use afterwards: Linux 6.18 kills what is cloned into a group in which
// cgroup.kill was ever written to.
func (g *Group) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lost, fmt.Errorf("killed %s ago, they may wait for hardware", lost))
	defer cancel()
	if err := g.write("cgroup.kill", "1"); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // before Linux 5.14, or there is no group
			err = g.killEach(ctx)
		}
		if err != nil {
			return err
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("control groups: %w", err)
		}
		if strings.Contains(string(b), "populated 0") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes of group %s do not die: %w", g.path, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// killEach kills one by one until there is none. Namespaces' first processes are among
// them, and take theirs along, so that nothing forks faster than this.
func (g *Group) killEach(ctx context.Context) error {
	for ctx.Err() == nil {
		b, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("control groups: %w", err)
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
			}
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("processes of group %s do not die: %w", g.path, context.Cause(ctx))
}

// Remove kills what is in the group and removes it.
func (g *Group) Remove(ctx context.Context) error {
	if err := g.kill(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(lost); ; {
		err := os.Remove(g.path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("control groups: %w", err)
		}
		time.Sleep(time.Millisecond) // its last process is not quite gone
	}
}

func (g *Group) write(file, value string) error {
	if err := os.WriteFile(filepath.Join(g.path, file), []byte(value), 0); err != nil {
		return fmt.Errorf("control groups: set %s to %s: %w", file, value, err)
	}
	return nil
}
