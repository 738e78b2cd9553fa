// Package reaper collects the orphans that the kernel hands to PID 1, without
// taking away the children that os/exec waits for.
//
// Since Go 1.23 the os package starts every child with a pidfd and holds it
// until Wait. A zombie that one of our own pidfds refers to is therefore a
// child that somebody here waits for; any other is an orphan. Children
// started below package os (syscall.ForkExec) have no pidfd and are taken for
// orphans. The kernel must know pidfds (5.4).
package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sweep is how often zombies are looked for without a signal.
const sweep = time.Minute

// Run reaps orphans until ctx is done. reaped, which may be nil, is told the
// process id of each. An error means that Run cannot work here at all.
func Run(ctx context.Context, reaped func(pid int)) error {
	if err := check(); err != nil {
		return err
	}
	sig := make(chan os.Signal, 1) // one is enough: a sweep takes all
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for {
		if err := reap(reaped); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-sig:
		case <-tick.C:
		}
	}
}

// check refuses to work where os/exec does without pidfds: there every child
// would look like an orphan.
func check() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("reaping orphans: the kernel has no pidfds: %w", err)
	}
	defer unix.Close(fd)
	held, err := heldPids()
	if err != nil {
		return err
	}
	if !held[os.Getpid()] {
		return errors.New("reaping orphans: /proc/self/fdinfo does not show pidfds")
	}
	return nil
}

// reap takes the zombies that nobody here waits for.
func reap(reaped func(int)) error {
	// The order matters: a child of ours that was a zombie here either still
	// has its pidfd below, or has been waited for and is gone.
	zombies, err := zombies()
	if err != nil || len(zombies) == 0 {
		return err
	}
	held, err := heldPids()
	if err != nil {
		return err
	}
	for _, pid := range zombies {
		if held[pid] {
			continue
		}
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if err == nil && got == pid && reaped != nil {
			reaped(pid)
		}
	}
	return nil
}

// zombies lists the dead children of this process.
func zombies() ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("reaping orphans: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("reaping orphans: %w", err)
	}
	var out []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err != nil {
			continue // gone
		}
		if state, ppid, ok := parseStat(string(stat)); ok && state == "Z" && ppid == os.Getpid() {
			out = append(out, pid)
		}
	}
	return out, nil
}

// parseStat reads state and parent from /proc/PID/stat. The name before them
// stands in parentheses and may contain anything, more of these included.
func parseStat(stat string) (state string, ppid int, ok bool) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return "", 0, false
	}
	f := strings.Fields(stat[i+1:])
	if len(f) < 2 {
		return "", 0, false
	}
	ppid, err := strconv.Atoi(f[1])
	return f[0], ppid, err == nil
}

// heldPids lists the processes that this one holds a pidfd of.
func heldPids() (map[int]bool, error) {
	const dir = "/proc/self/fdinfo"
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("reaping orphans: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("reaping orphans: %w", err)
	}
	held := map[int]bool{}
	for _, name := range names {
		info, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue // closed
		}
		for line := range strings.Lines(string(info)) {
			if v, ok := strings.CutPrefix(line, "Pid:"); ok {
				if pid, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && pid > 0 {
					held[pid] = true
				}
			}
		}
	}
	return held, nil
}
