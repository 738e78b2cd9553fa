package rackhd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

const maxRetries = 10

// lingering is how long output is read on after a command has ended, for what it
// has left in the background. It is a variable for tests.
var lingering = 5 * time.Second

// environment of commands. The agent's own is what the kernel made of its command
// line.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C", "TERM=linux",
}

// Reasons for which a command is killed.
var errOutput = fmt.Errorf("killed: it wrote more than %d bytes", wire.MaxOutput)

// output keeps what a command writes, up to a limit.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	full func() // called when there is more
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := wire.MaxOutput - o.b.Len(); len(p) > room {
		o.b.Write(p[:room])
		o.full()
		return room, errOutput
	}
	return o.b.Write(p)
}

// text is what was written, as it can stand in JSON.
func (o *output) text() *string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := strings.ToValidUTF8(o.b.String(), "\uFFFD")
	if len(s) > wire.MaxOutput { // as a replacement is longer than what it replaces
		s = strings.ToValidUTF8(s[:wire.MaxOutput], "")
	}
	return &s
}

// run does one task and fills in how it went. It reports whether to go on.
func (n *Node) run(ctx context.Context, dir string, t *wire.NodeTask) bool {
	if t.DownloadURL != "" {
		if err := n.download(ctx, dir, t.DownloadURL); err != nil {
			t.Error = &wire.NodeError{Text: err.Error()}
			return false
		}
	}
	if t.Cmd == "" { // it asks whether we are there
		t.Stdout, t.Stderr = new(string), new(string)
		return true
	}
	for attempt := 0; ; attempt++ {
		began := time.Now()
		n.command(ctx, dir, t)
		ok := accepted(*t)
		n.c.Log.Info("command ended", "cmd", clip(t.Cmd), "took", time.Since(began).Round(time.Millisecond), "ok", ok, "error", describe(t.Error))
		if ok || attempt >= min(t.Retries, maxRetries) || ctx.Err() != nil {
			return ok
		}
		n.wait(ctx, 1)
	}
}

// command runs a task's command once.
func (n *Node) command(ctx context.Context, dir string, t *wire.NodeTask) {
	t.Stdout, t.Stderr, t.Error = nil, nil, nil
	limit := n.c.Limit
	if t.Timeout > 0 {
		limit = time.Duration(t.Timeout) * time.Millisecond
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("killed: it has not ended within %v", limit))
	defer stop()
	full := func() { cancel(errOutput) }
	stdout, stderr := &output{full: full}, &output{full: full}
	cmd := exec.CommandContext(ctx, n.c.Shell, "-c", t.Cmd)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, environment, stdout, stderr, lingering
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case cmd.Process == nil:
		t.Error = &wire.NodeError{Text: n.notStarted(err)}
		return
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() && ctx.Err() == nil:
	case context.Cause(ctx) != nil:
		t.Error = &wire.NodeError{Text: context.Cause(ctx).Error()}
	case errors.As(err, &exit), errors.Is(err, exec.ErrWaitDelay):
		t.Error = &wire.NodeError{Code: cmd.ProcessState.ExitCode(), Cmd: n.c.Shell + " -c " + t.Cmd}
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			t.Error.Code, t.Error.Signal = 0, signalName(s.Signal())
		}
	default:
		t.Error = &wire.NodeError{Text: err.Error()}
	}
	t.Stdout, t.Stderr = stdout.text(), stderr.text()
}

func (n *Node) notStarted(err error) string {
	if errors.Is(err, syscall.ENOENT) {
		return fmt.Sprintf("this ramdisk has no shell %s, which commands need: boot it with the rescue image (teeth initramfs build --rescue) loaded on top", n.c.Shell)
	}
	return err.Error()
}

// accepted reports whether a task went as its server takes it.
func accepted(t wire.NodeTask) bool { return wire.NodeTasks{Tasks: []wire.NodeTask{t}}.Failed() == nil }

// signalName is the name that Node gives a signal.
func signalName(s syscall.Signal) string {
	if name, ok := map[syscall.Signal]string{
		syscall.SIGHUP: "SIGHUP", syscall.SIGINT: "SIGINT", syscall.SIGQUIT: "SIGQUIT", syscall.SIGILL: "SIGILL", syscall.SIGABRT: "SIGABRT",
		syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE", syscall.SIGKILL: "SIGKILL", syscall.SIGSEGV: "SIGSEGV", syscall.SIGPIPE: "SIGPIPE",
		syscall.SIGALRM: "SIGALRM", syscall.SIGTERM: "SIGTERM",
	}[s]; ok {
		return name
	}
	return fmt.Sprintf("SIG%d", int(s))
}

func describe(e *wire.NodeError) string {
	switch {
	case e == nil:
		return ""
	case e.Text != "":
		return clip(e.Text)
	case e.Signal != "":
		return e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// clip is for the log.
func clip(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// posted is a task as Node reports it: one that was done without an error has a
// null for it.
type posted struct {
	wire.NodeTask
	Error any `json:"error,omitempty"`
}

// encode returns a report.
func encode(t wire.NodeTasks) []byte {
	tasks := make([]posted, len(t.Tasks))
	for i, task := range t.Tasks {
		tasks[i].NodeTask = task
		switch {
		case task.Error != nil:
			tasks[i].Error = task.Error
		case task.Stdout != nil:
			tasks[i].Error = json.RawMessage("null")
		}
	}
	b, err := json.Marshal(struct {
		wire.NodeTasks
		Tasks []posted `json:"tasks"`
	}{t, tasks})
	if err != nil { // of texts, numbers and lists
		panic(err)
	}
	return append(b, '\n')
}
