package task

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHold(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "decom.disk_erase", true, untilCancelled)
		if _, _, err := m.Hold("commands"); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "decom.disk_erase") {
			t.Errorf("beside a disruptive task: %v", err)
		}
		if err := m.Cancel("t1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ctx, release, err := m.Hold("commands")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start("t2", "k", true, untilCancelled); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "commands") {
			t.Errorf("a disruptive task: %v", err)
		}
		if _, _, err := m.Hold("more"); !errors.Is(err, ErrBusy) {
			t.Errorf("a second hold: %v", err)
		}
		start(t, m, "t3", "k", false, untilCancelled)
		release()
		release()
		if ctx.Err() == nil {
			t.Error("its context goes on")
		}
		start(t, m, "t2", "k", true, untilCancelled)
		m.Cancel("t2")
		synctest.Wait()
		m.Refuse("leaving")
		if _, _, err := m.Hold("commands"); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "leaving") {
			t.Errorf("while leaving: %v", err)
		}
	})
}

// A shutdown ends what is held, and waits for its release.
func TestHoldAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := NewManager(ctx, (&recorder{}).report, nil)
		held, release, err := m.Hold("commands")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		go func() {
			<-held.Done()
			time.Sleep(time.Second)
			release()
		}()
		began := time.Now()
		if m.Wait(); time.Since(began) != time.Second {
			t.Errorf("waited %v", time.Since(began))
		}
		if _, _, err := m.Hold("commands"); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	})
}
