package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxLine bounds a line of output, in bytes; a longer one is handed on in parts.
const MaxLine = 4096

// maxReport bounds what the first process may say.
const maxReport = 64 << 10

// Process is a program that runs, or ran.
type Process struct {
	cmd     *exec.Cmd
	control *os.File
	mu      sync.Mutex // of control
	done    chan struct{}
	exit    Exit
}

// Start runs a program. group, unless it is nil, is the directory of the control group
// to start it in. stdout and stderr read what it writes, on goroutines of their own;
// what they leave is thrown away, and while they do not read, the program waits when it
// writes.
func Start(s Setup, group *os.File, stdout, stderr func(io.Reader)) (*Process, error) {
	fail := func(err error) (*Process, error) { return nil, fmt.Errorf("start sandbox: %w", err) }
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{Arg0}, Env: []string{"GOTRACEBACK=none", "GOMAXPROCS=1"}, Dir: "/",
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			Setsid:     true,
		},
	}
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fail(errors.Join(err, ours.Close()))
	}
	diag, err := cmd.StderrPipe()
	if err != nil {
		return fail(errors.Join(err, ours.Close()))
	}
	if err := cmd.Start(); err != nil {
		return fail(errors.Join(err, ours.Close()))
	}
	p := &Process{cmd: cmd, control: ours, done: make(chan struct{})}
	var lines sync.WaitGroup
	lines.Go(func() { consume(out, stdout) })
	lines.Go(func() { consume(diag, stderr) })
	go p.wait(&lines)
	if err := p.send(s); err != nil {
		p.Kill()
		return fail(err)
	}
	return p, nil
}

func (p *Process) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.control.SetWriteDeadline(time.Now().Add(5 * time.Second)) // a socket can
	_, err = p.control.Write(append(b, '\n'))
	return err
}

// wait collects the end of it all. The output ends when the last process that could
// write does, which the kernel has killed by then.
func (p *Process) wait(lines *sync.WaitGroup) {
	var r report
	err := json.NewDecoder(io.LimitReader(p.control, maxReport)).Decode(&r)
	lines.Wait()
	werr := p.cmd.Wait()
	p.exit = r.exit()
	if err != nil {
		p.exit = Exit{Err: fmt.Errorf("sandbox ended without a word: %w", errors.Join(werr, err))}
		if ee := (*exec.ExitError)(nil); errors.As(werr, &ee) {
			if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				p.exit = Exit{Signal: ws.Signal()} // killed, as everything in it
			}
		}
	}
	p.mu.Lock()
	p.control.Close()
	p.mu.Unlock()
	close(p.done)
}

// PID is that of the first process, in the namespace of the caller.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program. One that has ended gets none.
func (p *Process) Signal(s unix.Signal) {
	_ = p.send(order{s}) // nobody listens any more
}

// Kill ends every process of the sandbox at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
}

// Done is closed when all has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended, once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Wait waits for the end, or kills the program when ctx ends before, and then returns
// the context's error in Exit.
func (p *Process) Wait(ctx context.Context) Exit {
	select {
	case <-p.done:
		return p.exit
	case <-ctx.Done():
	}
	p.Kill()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second): // in the middle of what cannot be interrupted
	}
	return Exit{Err: context.Cause(ctx)}
}

func consume(r io.Reader, f func(io.Reader)) {
	if f != nil {
		f(r)
	}
	_, _ = io.Copy(io.Discard, r) // an error is an end, too
}

// Lines makes of f what Start wants: f gets line by line, without line ends, and must
// not keep it.
func Lines(f func(line []byte)) func(io.Reader) {
	return func(r io.Reader) {
		b := bufio.NewReaderSize(r, MaxLine)
		for {
			line, err := b.ReadSlice('\n')
			if n := len(line); n > 0 && line[n-1] == '\n' {
				line = line[:n-1]
			} else if n == 0 && err != nil {
				return
			}
			f(line)
			if err != nil && err != bufio.ErrBufferFull {
				return
			}
		}
	}
}
