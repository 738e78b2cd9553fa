package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const someKey = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"

// An upgrade is refused while a disruptive task runs, and one that does not come to
// pass leaves the chassis as it was.
func TestUpgradeOfTheRamdisk(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{nil, {"http://127.0.0.1:1/"}, {"http://127.0.0.1:1/", "no key"}, {"http://127.0.0.1:1/", someKey, "now"}} {
		if _, err := b.upgradeRamdisk(t.Context(), args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	if _, err := b.upgradeRamdisk(t.Context(), []string{"http://127.0.0.1:1/api/v1/minion", someKey}); err == nil || !strings.Contains(err.Error(), "newest version") {
		t.Error(err)
	}
	erased := make(chan struct{})
	if err := b.tasks.Start("erase", teeth.MethodDiskErase, true, func(context.Context, *task.Task) (any, error) { <-erased; return nil, nil }); err != nil {
		t.Fatalf("what a failed upgrade leaves: %v", err)
	}
	if _, err := b.upgradeRamdisk(t.Context(), []string{"http://127.0.0.1:1/", someKey}); !errors.Is(err, task.ErrBusy) {
		t.Errorf("during an erase: %v", err)
	}
	close(erased)
	<-b.ended
}

// The ramdisk that is loaded is booted once everything was said; if that fails the
// chassis reboots into the network's.
func TestIntoRamdisk(t *testing.T) {
	for name, tt := range map[string]struct {
		handOff, exec error
		shutdown      bool
		want          string
	}{
		"kexec fails":    {exec: errors.New("refused"), want: "hand off, exec, reboot into what the firmware boots"},
		"hand off fails": {handOff: errors.New("busy"), want: "hand off, reboot into what the firmware boots"},
		"shut down":      {shutdown: true, want: ""},
	} {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if tt.shutdown {
			cancel()
		}
		var did []string
		b.intoRamdisk(ctx, "2.0.0", exit{
			handOff: func() error { did = append(did, "hand off"); return tt.handOff },
			exec:    func() error { did = append(did, "exec"); return tt.exec },
			reboot:  func(why string) { did = append(did, "reboot "+why) },
		})
		if got := strings.Join(did, ", "); got != tt.want {
			t.Errorf("%s: %q", name, got)
		}
		if _, err := b.do(teeth.MethodQC, `{"task_id":"next"}`); err == nil || !strings.Contains(err.Error(), "leaving for ramdisk 2.0.0") {
			t.Errorf("%s: next command: %v", name, err)
		}
	}
}
