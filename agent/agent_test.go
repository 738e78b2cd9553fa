package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// bench is an Agent with files for disks and without a control plane.
type bench struct {
	*Agent
	t      *testing.T
	ended  chan teeth.TaskStatus // final states
	leaves chan string           // how it would have left

	nth int // tasks begun by run
}

func newBench(t *testing.T, disks ...blockdev.Info) *bench {
	ctx, cancel := context.WithCancel(t.Context())
	b := &bench{t: t, ended: make(chan teeth.TaskStatus, 64), leaves: make(chan string, 1)}
	b.Agent = newAgent(&boot.Machine{MAC: "52:54:00:00:00:01", Log: slog.New(slog.DiscardHandler)}, "test")
	b.disks = func() ([]blockdev.Info, error) { return slices.Clone(disks), nil }
	b.inventory = func(context.Context) (*hwinfo.Inventory, error) { return &hwinfo.Inventory{}, nil }
	b.cacheDir = filepath.Join(t.TempDir(), "images")
	b.leave = func(taskID, how string) { b.leaves <- taskID + " by " + how }
	b.tasks = task.NewManager(ctx, func(s teeth.TaskStatus) {
		if s.State.Final() {
			b.ended <- s
		}
	}, b.log)
	var err error
	b.session, err = session.New(session.Config{
		Endpoints: []string{"127.0.0.1:1"}, Insecure: true, Handshake: b.handshake, Handler: b, Log: b.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); b.tasks.Wait() })
	return b
}

// do sends a command, whose params are JSON.
func (b *bench) do(method, params string) (any, error) {
	return b.Handle(b.t.Context(), method, json.RawMessage(params))
}

// run starts a task of params without their task_id and waits for its end.
func (b *bench) run(method string, params map[string]any) teeth.TaskStatus {
	b.t.Helper()
	b.nth++
	params["task_id"] = fmt.Sprintf("task-%d", b.nth)
	js, err := json.Marshal(params)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.do(method, string(js)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	s := <-b.ended
	if s.TaskID != params["task_id"] {
		b.t.Fatalf("%s: end of %s, expected of %s", method, s.TaskID, params["task_id"])
	}
	b.tasks.Acknowledge(s.TaskID)
	return s
}

// file makes a disk out of a plain file with that beginning.
func file(t *testing.T, name string, size int64, data []byte) blockdev.Info {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return blockdev.Info{Name: name, Path: path, Size: size, Transport: blockdev.SATA}
}

const (
	imageID = "7d3f0a52-4d2e-4f4e-9d0c-0123456789ab"
	digest  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

func TestRefusedCommands(t *testing.T) {
	const cache, prepare, run = teeth.MethodCacheImages, teeth.MethodPrepareImage, teeth.MethodRunImage
	img := func(more string) string { return fmt.Sprintf(`{"id":%q,"urls":["http://h/i"]%s}`, imageID, more) }
	hashes := fmt.Sprintf(`,"hashes":{"sha256":%q}`, digest)
	tests := []struct{ name, method, params, err string }{
		{"no params", teeth.MethodDiskErase, ``, "params of"},
		{"params not an object", teeth.MethodDiskErase, `[1]`, "params of"},
		{"erase: no task", teeth.MethodDiskErase, `{}`, `missing parameter "task_id"`},
		{"erase: task is null", teeth.MethodDiskErase, `{"task_id":null}`, `missing parameter "task_id"`},
		{"erase: empty task", teeth.MethodDiskErase, `{"task_id":""}`, "task id"},
		{"erase: endless task id", teeth.MethodDiskErase, `{"task_id":"` + strings.Repeat("x", 300) + `"}`, "task id of 300 bytes"},
		{"erase: task is a number", teeth.MethodDiskErase, `{"task_id":5}`, "task_id"},
		{"erase: empty list", teeth.MethodDiskErase, `{"task_id":"t","disks":[]}`, "empty list"},
		{"erase: unnamed disk", teeth.MethodDiskErase, `{"task_id":"t","disks":[{"serial":"a"},{}]}`, "disk 2 of 2"},
		{"erase: disks not a list", teeth.MethodDiskErase, `{"task_id":"t","disks":"sda"}`, `"disks" must be a list`},
		{"erase: method", teeth.MethodDiskErase, `{"task_id":"t","method":"magic"}`, `unknown method "magic"`},
		{"erase: verify", teeth.MethodDiskErase, `{"task_id":"t","verify":"none"}`, `unknown verification "none"`},
		{"firmware: no task", teeth.MethodFirmwareSecure, `{}`, `"task_id"`},
		{"firmware: component", teeth.MethodFirmwareSecure, `{"task_id":"t","firmware":[{"component":"soul","minimum":"1"}]}`, "soul"},
		{"qc: no task", teeth.MethodQC, `{}`, `"task_id"`},
		{"qc: spec", teeth.MethodQC, `{"task_id":"t","spec":{"wings":2}}`, "wings"},
		{"cache: no task", cache, `{"image_ids":[]}`, `"task_id"`},
		{"cache: no ids", cache, `{"task_id":"t"}`, `"image_ids"`},
		{"cache: unknown id", cache, `{"task_id":"t","image_ids":["x"]}`, `image "x": the command does not say where`},
		{"cache: no digest", cache, `{"task_id":"t","image_ids":["` + imageID + `"],"images":[` + img("") + `]}`, "no sha256 or sha512"},
		{"cache: weak digest", cache, `{"task_id":"t","image_ids":["` + imageID + `"],"images":[` + img(`,"hashes":{"md5":"00"}`) + `]}`, "no sha256 or sha512"},
		{"cache: short digest", cache, `{"task_id":"t","image_ids":["` + imageID + `"],"images":[` + img(`,"hashes":{"sha256":"ab"}`) + `]}`, "64 hexadecimal digits"},
		{"cache: no urls", cache, `{"task_id":"t","image_ids":["` + imageID + `"],"images":[{"id":"` + imageID + `"` + hashes + `}]}`, "does not say where to fetch"},
		{"cache: format", cache, `{"task_id":"t","image_ids":["` + imageID + `"],"images":[` + img(hashes+`,"format":"vmdk"`) + `]}`, "vmdk"},
		{"cache: id is no UUID", cache, `{"task_id":"t","image_ids":["../x"],"images":[{"id":"../x","urls":["http://h/i"]` + hashes + `}]}`, "image id"},
		{"prepare: no task", prepare, `{"image_id":"x"}`, `"task_id"`},
		{"prepare: no id", prepare, `{"task_id":"t"}`, `"image_id"`},
		{"prepare: no digest", prepare, `{"task_id":"t","image_id":"` + imageID + `","image":` + img("") + `}`, "no sha256 or sha512"},
		{"prepare: another image", prepare, `{"task_id":"t","image_id":"x","image":` + img(hashes) + `}`, `image_id is "x"`},
		{"prepare: file URL", prepare, `{"task_id":"t","image_id":"` + imageID + `","image":{"id":"` + imageID + `","urls":["file:///etc/passwd"]` + hashes + `}}`, "not of http"},
		{"run: no task", run, `{"image_id":"x"}`, `"task_id"`},
		{"run: no id", run, `{"task_id":"t"}`, `"image_id"`},
		{"run: boot", run, `{"task_id":"t","image_id":"x","boot":"floppy"}`, "write auto, kexec or reboot"},
		{"run: config drive", run, `{"task_id":"t","image_id":"x","configdrive":{"meta_data":[]}}`, "meta_data"},
		{"run: path in config drive", run, `{"task_id":"t","image_id":"x","configdrive":{"files":{"../x":""}}}`, "../x"},
		{"cancel: no task", teeth.MethodTaskCancel, `{}`, `"task_id"`},
		{"cancel: unknown task", teeth.MethodTaskCancel, `{"task_id":"t"}`, "no such task"},
		{"status: type", teeth.MethodStatus, `{"inventory":"yes"}`, "inventory"},
		{"unknown", "standbye.dance", `{}`, teeth.FatalUnknownMethod},
	}
	b := newBench(t, file(t, "sda", 8<<20, nil))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := b.do(tt.method, tt.params)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if got, want := errors.Is(err, session.ErrUnknownMethod), tt.name == "unknown"; got != want {
				t.Errorf("unknown method: %t", got)
			}
		})
	}
	if s := b.tasks.Snapshot(); len(s) > 0 {
		t.Errorf("refused commands left tasks: %+v", s)
	}
}

func TestBusyAndCancel(t *testing.T) {
	b := newBench(t)
	began, hold := make(chan struct{}), make(chan struct{})
	b.disks = func() ([]blockdev.Info, error) {
		close(began)
		<-hold
		return nil, nil
	}
	if _, err := b.do(teeth.MethodDiskErase, `{"task_id":"first"}`); err != nil {
		t.Fatal(err)
	}
	<-began
	if _, err := b.do(teeth.MethodDiskErase, `{"task_id":"first"}`); err != nil {
		t.Errorf("the same command again: %v", err)
	}
	for _, c := range []struct{ method, params string }{
		{teeth.MethodDiskErase, `{"task_id":"second"}`},
		{teeth.MethodCacheImages, `{"task_id":"second","image_ids":[]}`},
		{teeth.MethodPrepareImage, `{"task_id":"second","image_id":"x"}`},
		{teeth.MethodRunImage, `{"task_id":"second","image_id":"x"}`},
	} {
		_, err := b.do(c.method, c.params)
		if !errors.Is(err, task.ErrBusy) || !strings.Contains(err.Error(), `"first" (decom.disk_erase) is running`) {
			t.Errorf("%s: %v", c.method, err)
		}
	}
	if s := b.run(teeth.MethodQC, map[string]any{}); s.State != teeth.Complete {
		t.Errorf("a task that harms nobody, beside: %+v", s)
	}
	if _, err := b.do(teeth.MethodTaskCancel, `{"task_id":"first"}`); err != nil {
		t.Error(err)
	}
	close(hold)
	if s := <-b.ended; s.State != teeth.Failed || !strings.Contains(s.Msg, "cancelled") {
		t.Errorf("%+v", s)
	}
	if _, err := b.do(teeth.MethodTaskCancel, `{"task_id":"first"}`); err == nil {
		t.Error("a task that has ended was cancelled")
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	b.machine.Phases = []boot.Phase{{Name: "network", Duration: 1500 * time.Millisecond}, {Name: "clock", Err: errors.New("no NTP")}}
	b.inventory = func(context.Context) (*hwinfo.Inventory, error) {
		return &hwinfo.Inventory{System: hwinfo.System{Product: "Box"}}, nil
	}
	got, err := b.do(teeth.MethodStatus, `{"inventory":true}`)
	if err != nil {
		t.Fatal(err)
	}
	s := got.(teeth.Status)
	if s.Mode != "STANDBY" || s.Uptime <= 0 || s.Version != "test" || s.Tasks == nil ||
		len(s.Phases) != 2 || s.Phases[0].Seconds != 1.5 || s.Phases[1].Error != "no NTP" ||
		!strings.Contains(string(s.Inventory), `"Box"`) {
		t.Errorf("%+v", s)
	}
	b.inventory = func(context.Context) (*hwinfo.Inventory, error) { return nil, errors.New("no SMBIOS") }
	if got, err = b.do(teeth.MethodStatus, `{}`); err != nil || got.(teeth.Status).Inventory != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err = b.do(teeth.MethodStatus, `{"inventory":true}`); err == nil {
		t.Error("a lost inventory is no error")
	}
}
