package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestDepart(t *testing.T) {
	tests := []struct {
		name       string
		how        string
		result     any // of run_image
		silent     bool
		shutdown   bool
		handOffErr error
		want       string
		after      time.Duration
	}{
		{name: "kexec", how: bootKexec, want: "hand off, exec, reboot into what the firmware boots"}, // exec returns only here
		{name: "reboot", how: bootReboot, want: "reboot into what the firmware boots"},
		{name: "power off", how: powerOff, want: "off as the control plane wants it"},
		{name: "not to be handed off", how: bootKexec, handOffErr: errors.New("busy"), want: "hand off, reboot into what the firmware boots"},
		{name: "never acknowledged", how: bootReboot, silent: true, want: "reboot into what the firmware boots", after: deliverLimit},
		{name: "result cannot be sent", how: bootKexec, result: make(chan int), want: "unload"},
		{name: "result is too long", how: bootKexec, result: strings.Repeat("x", 600<<10), want: "unload"},
		{name: "shut down meanwhile", how: bootKexec, silent: true, shutdown: true, want: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var did []string
				out := exit{
					handOff: func() error { did = append(did, "hand off"); return tt.handOffErr },
					exec:    func() error { did = append(did, "exec"); return errors.New("refused") },
					unload:  func() error { did = append(did, "unload"); return nil },
					reboot:  func(why string) { did = append(did, "reboot "+why) },
					off:     func(why string) { did = append(did, "off "+why) },
				}
				gone := make(chan struct{})
				began := time.Now()
				err := b.tasks.Start("t", teeth.MethodRunImage, true, func(context.Context, *task.Task) (any, error) {
					b.tasks.Refuse("leaving")
					go func() {
						defer close(gone)
						b.depart(ctx, "t", tt.how, out)
					}()
					return tt.result, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if <-b.ended; !tt.silent {
					b.tasks.Acknowledge("t")
				}
				if tt.shutdown {
					cancel()
				}
				<-gone
				if got := strings.Join(did, ", "); got != tt.want || time.Since(began) != tt.after {
					t.Errorf("after %s: %q, want %q after %s", time.Since(began), got, tt.want, tt.after)
				}
				_, err = b.do(teeth.MethodQC, `{"task_id":"next"}`)
				if stays := tt.want == "unload"; stays != (err == nil) {
					t.Errorf("next command: %v", err)
				} else if stays {
					<-b.ended
				}
			})
		})
	}
}

// TestDepartFlushes: the last log messages get a moment, and no more.
func TestDepartFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.session.Log("not deliverable", nil)
		if err := b.tasks.Start("t", teeth.MethodRunImage, true, func(context.Context, *task.Task) (any, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		<-b.ended
		b.tasks.Acknowledge("t")
		began := time.Now()
		left := false
		b.depart(t.Context(), "t", bootReboot, exit{reboot: func(string) { left = true }})
		if !left || time.Since(began) != flushLimit {
			t.Errorf("left: %t, after %s", left, time.Since(began))
		}
	})
}

// A reboot is a task like others: reported first, then done, and refused beside
// other disruptive work.
func TestReboot(t *testing.T) {
	for mode, want := range map[string]string{"": bootReboot, "reboot": bootReboot, "poweroff": powerOff} {
		b := newBench(t)
		left := make(chan string, 1)
		b.leave = func(id, how string) { left <- id + " " + how }
		if _, err := b.do(teeth.MethodReboot, `{"task_id":"r1","mode":"`+mode+`"}`); err != nil {
			t.Fatal(err)
		}
		if got := <-left; got != "r1 "+want {
			t.Errorf("mode %q: leaves by %q", mode, got)
		}
		if s := <-b.ended; s.TaskID != "r1" || s.State != teeth.Complete {
			t.Errorf("mode %q: %+v", mode, s)
		}
		if _, err := b.do(teeth.MethodReboot, `{"task_id":"r2"}`); err == nil || !strings.Contains(err.Error(), "leaving") {
			t.Errorf("a second task while leaving: %v", err)
		}
	}
	b := newBench(t)
	b.leave = func(string, string) { t.Error("left") }
	if _, err := b.do(teeth.MethodReboot, `{"task_id":"r1","mode":"explode"}`); err == nil || !strings.Contains(err.Error(), "poweroff") {
		t.Errorf("unknown mode: %v", err)
	}
	busy := make(chan struct{})
	defer close(busy)
	if err := b.tasks.Start("erase", teeth.MethodDiskErase, true, func(context.Context, *task.Task) (any, error) { <-busy; return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.do(teeth.MethodReboot, `{"task_id":"r1"}`); !errors.Is(err, task.ErrBusy) {
		t.Errorf("during an erase: %v", err)
	}
}
