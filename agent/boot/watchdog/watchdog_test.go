package watchdog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// fakeDog is a device whose time the test watches.
type fakeDog struct {
	options uint32
	given   int // seconds that the driver sets, whatever is asked
	asked   int
	fed     []time.Time
	written bytes.Buffer
	closed  bool
	feedErr error
	setErr  error
}

func (f *fakeDog) setTimeout(s int) (int, error) {
	f.asked = s
	if f.given != 0 {
		s = f.given
	}
	return s, f.setErr
}
func (f *fakeDog) keepAlive() error {
	if f.feedErr == nil {
		f.fed = append(f.fed, time.Now())
	}
	return f.feedErr
}
func (f *fakeDog) info() (string, uint32, error) { return "fake", f.options, nil }
func (f *fakeDog) Write(b []byte) (int, error)   { return f.written.Write(b) }
func (f *fakeDog) Close() error                  { f.closed = true; return nil }

const full = unix.WDIOF_SETTIMEOUT | unix.WDIOF_MAGICCLOSE | unix.WDIOF_KEEPALIVEPING

func TestArm(t *testing.T) {
	tests := []struct {
		name    string
		dev     fakeDog
		ask     time.Duration
		timeout time.Duration
		err     string
	}{
		{"as asked", fakeDog{options: full}, 60 * time.Second, 60 * time.Second, ""},
		{"rounded up", fakeDog{options: full}, 1500 * time.Millisecond, 2 * time.Second, ""},
		{"driver's own", fakeDog{options: full, given: 63}, 60 * time.Second, 63 * time.Second, ""},
		{"fixed", fakeDog{options: unix.WDIOF_MAGICCLOSE}, 60 * time.Second, 60 * time.Second, ""},
		{"refused", fakeDog{options: full, setErr: unix.EINVAL}, 60 * time.Second, 0, "set timeout of 1m0s"},
		{"not fed", fakeDog{options: full, feedErr: unix.EIO}, 60 * time.Second, 0, "input/output error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := arm(&tt.dev, "/dev/watchdog0", tt.ask)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("arm: %v, want %q", err, tt.err)
				}
				// A dog that cannot be fed must not be left armed.
				if tt.dev.written.String() != "V" || !tt.dev.closed {
					t.Error("left armed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d.Timeout() != tt.timeout || len(tt.dev.fed) != 1 || d.Name() != "fake" {
				t.Errorf("timeout %s, fed %d times", d.Timeout(), len(tt.dev.fed))
			}
		})
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fakeDog{options: full}
		d, err := arm(dev, "dog", 60*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		sick := func() bool { n := time.Since(began); return n < 5*time.Minute || n > 5*time.Minute+40*time.Second }
		var changes []string
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		d.Run(ctx, sick, func(err error) {
			if err == nil {
				changes = append(changes, "good")
			} else {
				changes = append(changes, err.Error())
			}
		})
		if len(changes) != 2 || !strings.Contains(changes[0], "not healthy") || changes[1] != "good" {
			t.Errorf("changes %q", changes)
		}
		var gap time.Duration
		for i := 1; i < len(dev.fed); i++ {
			gap = max(gap, dev.fed[i].Sub(dev.fed[i-1]))
		}
		if gap < 40*time.Second || gap > time.Minute {
			t.Errorf("longest time without food %s, want the sickness", gap)
		}
		if dev.closed {
			t.Error("the end of Run disarmed the watchdog")
		}
	})
}

func TestDisarm(t *testing.T) {
	dev := &fakeDog{options: full}
	d, err := arm(dev, "dog", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Disarm(), d.Disarm(), d.Feed()); err != nil {
		t.Error(err)
	}
	if dev.written.String() != "V" || !dev.closed || len(dev.fed) != 1 {
		t.Errorf("wrote %q, closed %t, fed %d", dev.written.String(), dev.closed, len(dev.fed))
	}
	stubborn := &fakeDog{options: unix.WDIOF_SETTIMEOUT}
	d, err = arm(stubborn, "dog", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Disarm(); err == nil || !strings.Contains(err.Error(), "cannot be stopped") {
		t.Errorf("nowayout: %v", err)
	}
	if err := d.Feed(); err != nil || len(stubborn.fed) != 2 {
		t.Errorf("a dog that cannot be stopped cannot be fed: %v", err)
	}
}

func TestOpenMissing(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "watchdog0"), time.Minute); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
