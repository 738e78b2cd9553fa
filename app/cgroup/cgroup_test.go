package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/internal/need"
)

// tree opens one; that limits are kept, package app's TestInGuest shows, in a machine
// that has all controllers.
func tree(t *testing.T) *Tree {
	t.Helper()
	if os.Geteuid() != 0 {
		need.Right(t, errors.New("control groups need root"))
	}
	tr, err := Open(t.Context(), "teeth-"+t.Name())
	need.Right(t, err)
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// A process that waits for hardware cannot be killed. That must not hold up whoever
// asks, however long that is ready to wait.
func TestUndead(t *testing.T) {
	g := &Group{path: t.TempDir()}
	for name, text := range map[string]string{"cgroup.kill": "", "cgroup.events": "populated 1\nfrozen 0\n"} {
		if err := os.WriteFile(filepath.Join(g.path, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := g.Remove(context.Background()); err == nil || !strings.Contains(err.Error(), "wait for hardware") {
			t.Error(err)
		}
		if took := time.Since(begin); took != lost {
			t.Errorf("after %s", took)
		}
	})
}

// sleep runs in a group, with a child.
func sleep(t *testing.T, g *Group) (wait func() error) {
	t.Helper()
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(need.Program(t, "sh", "dash"), "-c", "trap '' TERM; setsid sleep 1003 & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait = sync.OnceValue(cmd.Wait)
	t.Cleanup(func() { _ = wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
		if err != nil || time.Now().After(end) {
			t.Fatal("the child is not there", err)
		}
		if strings.Count(string(b), "\n") == 2 {
			return wait
		}
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", path, err)
	}
}

func TestRemove(t *testing.T) {
	tr := tree(t)
	for _, how := range []string{"cgroup.kill", "one by one"} {
		g, err := tr.Group("app")
		if err != nil {
			t.Fatal(err)
		}
		wait := sleep(t, g)
		waited := make(chan error, 1)
		go func() { waited <- wait() }()
		if how == "one by one" {
			err = errors.Join(g.killEach(t.Context()), <-waited)
			if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := g.Remove(ctx); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		gone(t, g.path)
		if err := g.Remove(ctx); err != nil {
			t.Error("removed twice:", err)
		}
	}
}

// What a process that was killed has left is killed by the next.
func TestReopen(t *testing.T) {
	tr := tree(t)
	g, err := tr.Group("app")
	if err != nil {
		t.Fatal(err)
	}
	wait := sleep(t, g)
	go func() { _ = wait() }()
	if _, err := Open(t.Context(), "teeth-"+t.Name()); err != nil {
		t.Fatal(err)
	}
	gone(t, g.path)
}

func TestUnavailable(t *testing.T) {
	tr := tree(t)
	g, err := tr.Group("app")
	if err != nil {
		t.Fatal(err)
	}
	tr.controllers = map[string]bool{}
	if err := g.Limit(manifest.Limits{}); err != nil {
		t.Error(err)
	}
	for _, l := range []manifest.Limits{{Memory: 1 << 20}, {PIDs: 5}, {CPU: 1}} {
		if err := g.Limit(l); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if g.OOMKills() < 0 || g.Memory() < 0 {
		t.Error("counters")
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
