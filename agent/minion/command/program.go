package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

// lingering is how long output is read on after a program has ended, for what it
// has left in the background.
const lingering = 2 * time.Second

// notFound is the exit code of a program that is not there, as a shell's.
const notFound = 127

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment of every program. The agent's own is what the kernel or systemd made
// of it.
var environment = []string{"PATH=" + searchPath, "HOME=/", "LANG=C.UTF-8", "TERM=dumb"}

// external starts a program and waits for it, no longer than ctx.
func (r *Runner) external(ctx context.Context, c command, from Peer, give func(part)) part {
	argv := c.argv
	if c.shell {
		argv = []string{r.c.Shell, "-c", strings.Join(c.argv, " ")}
	}
	o := newOutput(c.limit, from)
	name, err := find(argv[0])
	if err != nil {
		return conclude(o, part{exit: notFound, state: minion.StateDone}, give, r.whyNot(c, err))
	}
	cmd := exec.CommandContext(ctx, name)
	cmd.Args, cmd.Dir, cmd.Env = argv, r.c.Dir, slices.Concat(environment, c.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	read, err := o.start(cmd)
	if err != nil {
		return conclude(o, part{exit: notStarted, state: minion.StateDone}, give, r.whyNot(c, err))
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // ProcessState has it all
		o.exited()
		read()
	}()
	last := part{state: minion.StateDone, seq: sendOn(o, ended, give)}
	last.exit = cmd.ProcessState.ExitCode()
	s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !s.Signaled() {
		return conclude(o, last, give)
	}
	last.exit, last.state = 128+int(s.Signal()), minion.StateKilled
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		last.state = minion.StateTimeout
		return conclude(o, last, give, fmt.Sprintf("killed: it has not ended within %v", c.timeout))
	case ctx.Err() != nil:
		return conclude(o, last, give, "killed: the agent is ending")
	}
	return conclude(o, last, give, "killed by signal: "+s.Signal().String())
}

// start starts a program that writes to o. The function that it returns is to be called
// when the program has ended: it returns when all that was written is read, or
// lingering is over. os/exec's own copying counts the time in which a slow server holds
// it up, and drops what is in the pipes then.
func (o *output) start(cmd *exec.Cmd) (read func(), err error) {
	var ends [4]*os.File // to read, to write, of each stream
	closing := func(files ...*os.File) {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	for i := 0; i < len(ends) && err == nil; i += 2 {
		ends[i], ends[i+1], err = os.Pipe()
	}
	if err == nil {
		cmd.Stdout, cmd.Stderr = ends[1], ends[3]
		err = cmd.Start()
	}
	closing(ends[1], ends[3])
	if err != nil {
		closing(ends[0], ends[2])
		return nil, err
	}
	var copying sync.WaitGroup
	for i := range o.streams {
		copying.Go(func() { _, _ = io.Copy(&o.streams[i], ends[2*i]) }) // until its end, or it is closed
	}
	return func() {
		late := time.AfterFunc(lingering, func() { closing(ends[0], ends[2]) })
		copying.Wait()
		if late.Stop() {
			closing(ends[0], ends[2])
		}
	}, nil
}

// sendOn gives what a program writes until it has ended, and returns how many parts
// that were.
func sendOn(o *output, ended <-chan struct{}, give func(part)) (seq int) {
	for {
		select {
		case <-ended:
			return seq
		case <-o.ready:
		}
		if o.single {
			continue
		}
		if !collect(o, ended) {
			return seq
		}
		for {
			stdout, stderr, _ := o.take()
			if stdout != "" || stderr != "" {
				give(part{stdout: stdout, stderr: stderr, state: minion.StateRunning, seq: seq})
				seq++
			}
			if !o.full() {
				break
			}
		}
		o.again()
	}
}

// collect waits a moment for more to come along, unless there is a whole piece. It
// returns false once the program has ended.
func collect(o *output, ended <-chan struct{}) bool {
	t := time.NewTimer(soon)
	defer t.Stop()
	for !o.full() {
		select {
		case <-ended:
			return false
		case <-t.C:
			return true
		case <-o.ready:
		}
	}
	return true
}

// find looks a program up where programs look, not where the agent's environment
// says.
func find(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		file := dir + "/" + name
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%.80q: not found in %s", name, searchPath)
}

func (r *Runner) whyNot(c command, err error) string {
	if c.shell && errors.Is(err, syscall.ENOENT) {
		return fmt.Sprintf("there is no shell %s here; a ramdisk has one with the rescue image (teeth initramfs build --rescue)", r.c.Shell)
	}
	return err.Error()
}

// Output runs a program of the agent's own configuration, within the bounds that a
// server's commands have: argv without a shell, an environment of its own, its process
// group killed at the end of ctx. It returns the first limit bytes of what it writes to
// standard output, as text. An exit code other than 0 is an error with the beginning of
// what it wrote to standard error.
func Output(ctx context.Context, argv []string, limit int) (string, error) {
	name, err := find(argv[0])
	if err != nil {
		return "", err
	}
	o := newOutput(int64(limit), Peer{Room: limit})
	complaint := newOutput(300, Peer{Room: 300})
	cmd := exec.CommandContext(ctx, name)
	cmd.Args, cmd.Dir, cmd.Env, cmd.WaitDelay = argv, "/", environment, lingering
	cmd.Stdout, cmd.Stderr = &o.streams[0], &complaint.streams[1]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	o.mu.Lock()
	o.closed = true // nothing is added by what it has left in the background
	said := o.streams[0].text.String()
	o.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return said, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%.80q: killed: %w", argv[0], context.Cause(ctx))
	}
	complaint.mu.Lock()
	defer complaint.mu.Unlock()
	return "", fmt.Errorf("%.80q: %w: %s", argv[0], err, strings.TrimSpace(complaint.streams[1].text.String()))
}
