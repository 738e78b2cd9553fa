package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
)

func TestMain(m *testing.M) {
	Init()
	if dir := os.Getenv("TEETH_SANDBOX_PARENT"); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

// output collects lines.
type output struct {
	mu    sync.Mutex
	lines []string
}

func (o *output) add(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, string(b))
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// root needs to be, for namespaces.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		need.Right(t, errors.New("namespaces need root"))
	}
}

// shell runs a script with the machine's shell.
func shell(t *testing.T, script string, change func(*Setup)) (string, Exit) {
	t.Helper()
	p, out := begun(t, script, change)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	exit := p.Wait(ctx)
	return out.String(), exit
}

func begun(t *testing.T, script string, change func(*Setup)) (*Process, *output) {
	t.Helper()
	root(t)
	s := Setup{Root: t.TempDir(), Host: true, Hostname: "web", Command: []string{"/bin/sh", "-c", script}}
	if change != nil {
		change(&s)
	}
	out := &output{}
	p, err := Start(s, nil, Lines(out.add), Lines(out.add))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, out
}

func TestSandbox(t *testing.T) {
	for _, c := range []struct {
		name, script string
		change       func(*Setup)
		want         string // output
		exit         string
	}{
		{"exit status", "exit 7", nil, "", "exit status 7"},
		{"signal", "kill -SEGV $$", nil, "", "ended by SIGSEGV"},
		{"both outputs", "echo out; echo err >&2; sleep 0.1", nil, "", "exit status 0"},
		{"pid namespace", `echo $$; ls /proc | grep -c '^[0-9]'`, nil, "", "exit status 0"},
		{"host name", "cat /proc/sys/kernel/hostname; echo $TEETH_APP", nil, "web\nweb", "exit status 0"},
		{"environment", "echo $A $TEETH_SECRET .", func(s *Setup) { s.Env = map[string]string{"A": "b"} }, "b .", "exit status 0"},
		{"directory", "pwd", func(s *Setup) { s.Dir = "/usr" }, "/usr", "exit status 0"},
		{"no such directory", "pwd", func(s *Setup) { s.Dir = "/nowhere" }, "", "working directory /nowhere: it is not there"},
		{"user", "id -u; id -g; id -G; grep CapEff /proc/self/status", func(s *Setup) { s.UID, s.GID = 1234, 5678 },
			"1234\n5678\n5678\nCapEff:\t0000000000000000", "exit status 0"},
		{"no capabilities", "grep -E 'Cap(Eff|Bnd|Prm|Inh|Amb)|NoNewPrivs' /proc/self/status", nil,
			"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1", "exit status 0"},
		{"one capability", "grep CapEff /proc/self/status", func(s *Setup) { s.Capabilities = []string{"CAP_SYS_RAWIO"} },
			"CapEff:\t0000000000020000", "exit status 0"},
		{"one capability of a user", "grep CapEff /proc/self/status", func(s *Setup) {
			s.Capabilities, s.UID = []string{"CAP_NET_BIND_SERVICE"}, 1234
		}, "CapEff:\t0000000000000400", "exit status 0"},
		{"unknown capability", "true", func(s *Setup) { s.Capabilities = []string{"CAP_X"} }, "", `capability "CAP_X" is not known`},
		{"no such program", "", func(s *Setup) { s.Command = []string{"/bin/nothing"} }, "", "start: stat /bin/nothing: no such file or directory in the package"},
		{"program in PATH", "", func(s *Setup) { s.Command = []string{"echo", "hi"} }, "hi", "exit status 0"},
		{"not in PATH", "", func(s *Setup) { s.Command = []string{"nothing"} }, "", "start nothing: executable file not found in $PATH in " + defaultPath},
		{"no privileged writes", `for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/power/state /usr/x /etc/x; do
			if (echo >$f) 2>/dev/null; then echo wrote $f; fi; done`, nil, "", "exit status 0"},
		{"hidden", "wc -c </proc/kallsyms; wc -c </proc/cmdline", nil, "0\n0", "exit status 0"},
		{"writes of its own", "echo x >/file && cat /file && echo y >/tmp/t && cat /tmp/t && echo z >/dev/null", nil, "x\ny", "exit status 0"},
		{"standard devices only", "ls /dev | tr '\\n' ' '", nil,
			"fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ", "exit status 0"},
		{"another device", "ls -l /dev/kmsg | cut -c1", func(s *Setup) { s.Devices = []string{"/dev/kmsg"} }, "c", "exit status 0"},
		{"no such device", "", func(s *Setup) { s.Devices = []string{"/dev/nosuch0"} }, "",
			"device: stat /dev/nosuch0: no such file or directory: is its module loaded?"},
		{"not a device", "", func(s *Setup) { s.Devices = []string{"/dev/pts"} }, "", "device /dev/pts: it is not a device"},
		{"mounts of the machine are gone", "grep -c -E ' /(run/netns|mnt|sys/fs/cgroup)' /proc/self/mountinfo", nil, "0", "exit status 1"},
		{"variables", "", func(s *Setup) {
			s.Command, s.Expand = []string{"/usr/bin/printf", "%s,", "$ARGS", "a${B}c", "$$B", "$NOTHING", "$5"}, true
			s.Env = map[string]string{"ARGS": "one two", "B": "b b"}
		}, "one,two,ab bc,$B,$5,", "exit status 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, out := begun(t, c.script, c.change)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			exit := p.Wait(ctx)
			if exit.String() != c.exit {
				t.Errorf("%s, want %s; output %q", exit, c.exit, out)
			}
			switch c.name {
			case "both outputs":
				if s := out.String(); s != "out\nerr" && s != "err\nout" {
					t.Errorf("output %q", s)
				}
			case "pid namespace":
				if lines := strings.Split(out.String(), "\n"); len(lines) != 2 || len(lines[0]) > 2 || len(lines[1]) > 1 {
					t.Errorf("output %q", out)
				}
			default:
				if out.String() != c.want {
					t.Errorf("output %q, want %q", out, c.want)
				}
			}
		})
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestSignal(t *testing.T) {
	p, out := begun(t, `trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done`, nil)
	eventually(t, "ready", func() bool { return out.String() == "ready" })
	p.Signal(unix.SIGTERM)
	if e := p.Wait(t.Context()); e.Code != 3 || out.String() != "ready\nterm" {
		t.Errorf("%s, output %q", e, out)
	}
	p.Signal(unix.SIGTERM) // to nobody
}

// What a program leaves running ends with it, and holds nothing up.
func TestLeftovers(t *testing.T) {
	_, e := shell(t, "setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & echo x", nil)
	if e.Status() != 0 {
		t.Error(e)
	}
}

func TestKillTree(t *testing.T) {
	p, out := begun(t, "sleep 1001 & sleep 1001 & setsid sleep 1001 & echo ready; wait", nil)
	eventually(t, "ready", func() bool { return out.String() == "ready" })
	p.Kill()
	if e := p.Wait(t.Context()); e.Signal != unix.SIGKILL {
		t.Error(e)
	}
}

func TestContext(t *testing.T) {
	p, _ := begun(t, "trap '' TERM; sleep 1000", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if e := p.Wait(ctx); !errors.Is(e.Err, context.DeadlineExceeded) || e.Status() != 127 {
		t.Error(e)
	}
}

func TestForking(t *testing.T) {
	p, out := begun(t, "(trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done) & exit 0", func(s *Setup) { s.Forking = true })
	eventually(t, "up", func() bool { return out.String() == "up" })
	select {
	case <-p.Done():
		t.Fatal("ended with its first process:", p.Exit())
	case <-time.After(100 * time.Millisecond):
	}
	p.Signal(unix.SIGTERM)
	if e := p.Wait(t.Context()); e.Err != nil {
		t.Error(e)
	}
	if _, e := shell(t, "exit 5", func(s *Setup) { s.Forking = true }); e.Code != 5 {
		t.Errorf("a daemon that could not start: %s", e)
	}
}

func TestLongLines(t *testing.T) {
	out, e := shell(t, "head -c 10000 /dev/zero | tr '\\0' x", nil)
	if e.Status() != 0 {
		t.Fatal(e)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 3 || len(lines[0]) != MaxLine || len(lines[2]) != 10000-2*MaxLine {
		t.Errorf("%d lines", len(lines))
	}
}

// A package cannot make mounts land on the machine.
func TestHostilePackage(t *testing.T) {
	for _, name := range []string{"proc", "sys", "dev", "tmp"} {
		outside := t.TempDir()
		out, e := shell(t, "echo ran", func(s *Setup) {
			if err := os.Symlink(outside, filepath.Join(s.Root, name)); err != nil {
				t.Fatal(err)
			}
		})
		if e.Err == nil || !strings.Contains(e.Err.Error(), "package has something else than a directory at /"+name) || out != "" {
			t.Errorf("%s: %s, %q", name, e, out)
		}
	}
	outside := filepath.Join(t.TempDir(), "file")
	_, e := shell(t, "true", func(s *Setup) {
		s.Host = false
		s.Command = []string{"/x"}
		_ = os.MkdirAll(filepath.Join(s.Root, "etc"), 0o755)
		_ = os.Symlink(outside, filepath.Join(s.Root, "etc/resolv.conf"))
	})
	if _, err := os.Lstat(outside); e.Err == nil || err == nil {
		t.Errorf("%s; /etc/resolv.conf was followed", e)
	}
}

// A dynamic program without its loader says what is missing.
func TestNoLoader(t *testing.T) {
	_, e := shell(t, "", func(s *Setup) {
		s.Host, s.Command = false, []string{"/true"}
		b, err := os.ReadFile(need.Program(t, "true", "coreutils"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Root, "true"), b, 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if e.Err == nil || !strings.Contains(e.Err.Error(), "dynamic loader is not in the package") {
		t.Error(e)
	}
}

// parent starts a sandbox and waits to be killed.
func parent(dir string) {
	_, err := Start(Setup{Root: dir, Host: true, Command: []string{"/bin/sh", "-c", "echo up >/up; exec sleep 1002"}}, nil, nil, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	time.Sleep(time.Minute)
	os.Exit(0)
}

// Apps do not outlive the agent.
func TestParentKilled(t *testing.T) {
	root(t)
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEETH_SANDBOX_PARENT="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "app is up", func() bool { _, err := os.Stat(filepath.Join(dir, "up")); return err == nil })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "app is gone", func() bool { return len(running(t, "sleep\x001002\x00")) == 0 })
}

// running lists processes by their command line.
func running(t *testing.T, cmdline string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == cmdline {
			pids = append(pids, f)
		}
	}
	return pids
}
