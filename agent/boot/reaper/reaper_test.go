package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReap runs itself as a process that, like PID 1, is given orphans, while
// it starts children of its own by os/exec all the time.
func TestReap(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "TEETH_TEST_CHILD=init")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("TEETH_TEST_CHILD") == "init" {
		if err := likePID1(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func likePID1() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	var mu sync.Mutex
	reaped := map[int]bool{}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, func(pid int) {
			mu.Lock()
			defer mu.Unlock()
			reaped[pid] = true
		})
	}()
	const rounds, lanes = 25, 4
	var orphans []int
	var failures atomic.Int32
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() {
			for i := range rounds {
				// An exit status that is stolen shows as ECHILD here.
				err := exec.Command("/bin/sh", "-c", "exit "+strconv.Itoa(i%3)).Run()
				var exit *exec.ExitError
				if i%3 == 0 && err != nil || i%3 != 0 && (!errors.As(err, &exit) || exit.ExitCode() != i%3) {
					failures.Add(1)
					fmt.Printf("child %d: %v\n", i, err)
				}
				// The shell ends before its child, which becomes ours.
				b, err := exec.Command("/bin/sh", "-c", "sleep 0.05 >/dev/null 2>&1 & echo $!").Output()
				pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
				if err != nil || perr != nil {
					failures.Add(1)
					fmt.Println(err, perr)
					continue
				}
				mu.Lock()
				orphans = append(orphans, pid)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := failures.Load(); n > 0 {
		return fmt.Errorf("%d children were not waited for properly", n)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		missing := 0
		mu.Lock()
		for _, pid := range orphans {
			if !reaped[pid] {
				missing++
			}
		}
		mu.Unlock()
		left, err := zombies()
		if err != nil {
			return err
		}
		if missing == 0 && len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d orphans not reaped, zombies %v", missing, len(orphans), left)
		}
	}
	// A child that has ended but is not waited for yet must be left alone.
	cmd := exec.Command("/bin/sh", "-c", "exit 7")
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		return fmt.Errorf("late wait: %v", err)
	}
	cancel()
	return <-done
}

func TestParseStat(t *testing.T) {
	tests := []struct {
		stat, state string
		ppid        int
		ok          bool
	}{
		{"12 (sh) Z 1 12 12 0", "Z", 1, true},
		{"12 (a) Z 99) S 7 12", "S", 7, true},
		{"12 (sh Z 1", "", 0, false},
		{"12 (sh) Z", "", 0, false},
		{"", "", 0, false},
	}
	for _, tt := range tests {
		state, ppid, ok := parseStat(tt.stat)
		if state != tt.state || ppid != tt.ppid || ok != tt.ok {
			t.Errorf("%q: %q %d %t", tt.stat, state, ppid, ok)
		}
	}
}
