package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/boot/conlog"
	"github.com/teeth-metal/teeth/agent/minion/kmsg"
	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	recordsSecret  = "secret of the estate's StreamServer"
	recordsChassis = "4c4c4544-0043-3010-8052-b4c04f564231"
)

// kept is a destination of records in memory.
type kept struct {
	mu      sync.Mutex
	entries []minion.Entry
}

func (k *kept) Write(_ context.Context, entries []minion.Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries = append(k.entries, entries...)
	return nil
}

func (k *kept) lines(service string) (lines []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		if e.Service == service {
			lines = append(lines, e.Message)
		}
	}
	return lines
}

// streamServer is the control plane's, in the clear.
func streamServer(t *testing.T) (address string, k *kept) {
	t.Helper()
	k = &kept{}
	s, err := minion.New(minion.Config{
		Records: k, Secret: recordsSecret, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Chassis: func(_ context.Context, id string) (bool, bool, error) {
			return id == recordsChassis, id == recordsChassis, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ctx, l, nil) })
	wg.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l.Addr().String(), k
}

func offer(address string) *teeth.MinionServer {
	return &teeth.MinionServer{
		Addresses: []string{address}, Group: minion.ChassisGroup, ID: recordsChassis,
		Key: minion.ChassisKey(recordsSecret, recordsChassis), Insecure: true,
	}
}

func newRecords(t *testing.T, o boot.Options) *records {
	t.Helper()
	a := newAgent(&boot.Machine{MAC: "52:54:00:00:00:01", Options: o, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, "test")
	r, err := a.openRecords()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecords(t *testing.T) {
	address, k := streamServer(t)
	const token = "hush-hush"
	r := newRecords(t, boot.Options{Token: token})
	if r.keeps() || r.app("web", "x") {
		t.Error("records go nowhere, and are kept all the same")
	}
	if err := r.flush(t.Context()); err != nil {
		t.Errorf("nothing to wait for: %v", err)
	}
	// What the boot has left, in no order.
	r.kernelLine(kmsg.Line{Sequence: 1, At: time.Second, Text: `Command line: quiet teeth.token=` + token + ` teeth.minion_key="a b" panic=1`})
	r.kernelLine(kmsg.Line{Sequence: 5, At: 3 * time.Second, Text: "eth0: link is up", Lost: 3})
	r.agentLine(conlog.Line{At: 2 * time.Second, Level: slog.LevelInfo, Text: "phase done"})
	r.kernelLine(kmsg.Line{Sequence: 6, At: 4 * time.Second, Facility: 1, Text: "teeth: INFO phase done"})
	r.merge()
	r.agentLine(conlog.Line{At: 5 * time.Second, Level: slog.LevelWarn, Text: "now"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.client.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })

	r.welcomed(teeth.HandshakeResult{})
	if r.keeps() {
		t.Error("the control plane keeps no records")
	}
	r.welcomed(teeth.HandshakeResult{Minion: offer(address)})
	if !r.keeps() || !r.app("web", "GET /") {
		t.Error("records are not kept")
	}
	r.taskStarted("t1", "decom.qc")
	half := 50.0
	r.task(teeth.TaskStatus{TaskID: "t1", State: teeth.Running, Percent: &half, Step: "memory"})
	r.task(teeth.TaskStatus{TaskID: "t1", State: teeth.Running, Percent: &half, Step: "memory"})
	r.task(teeth.TaskStatus{TaskID: "t1", State: teeth.Complete, Result: json.RawMessage(`{"ok": true}`)})
	flushing, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := r.client.Flush(flushing); err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string][]string{
		"agent":  {"INFO phase done", "WARN now"},
		"kernel": {"[    1.000000] Command line: quiet teeth.token=(secret) teeth.minion_key=(secret) panic=1", "3 messages of the kernel were overwritten before they could be read", "[    3.000000] eth0: link is up"},
		"web":    {"GET /"},
		"task": {"task=t1 method=decom.qc state=running percent=50.0 step=memory",
			`task=t1 method=decom.qc state=complete result={"ok": true}`},
	} {
		if got := k.lines(service); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", service, got, want)
		}
	}
	if !slices.IsSortedFunc(k.entries[:4], func(a, b minion.Entry) int { return a.At.Compare(b.At) }) {
		t.Error("the boot is out of order")
	}
}

// TestRecordsTarget: the kernel command line goes before the control plane's word, and
// what is not of the chassis' own name stays off the session.
func TestRecordsTarget(t *testing.T) {
	given := boot.MinionOptions{Servers: []string{"ss:1"}, Group: "g1", ID: "id", Key: "k1", Insecure: true}
	for name, tt := range map[string]struct {
		given       boot.MinionOptions
		offered     *teeth.MinionServer
		pin         string
		aimed, over bool
	}{
		"nothing":                {},
		"offered":                {offered: offer("a:1"), aimed: true, over: true},
		"offered without a host": {offered: &teeth.MinionServer{Group: "chassis", ID: "x", Key: "k"}, aimed: true, over: true},
		"given":                  {given: given, aimed: true},
		"given, and offered":     {given: given, offered: offer("a:1"), aimed: true},
		"an address of it":       {given: boot.MinionOptions{Servers: []string{"ss:1"}, Insecure: true}, offered: offer("a:1"), aimed: true, over: true},
		"an address alone":       {given: boot.MinionOptions{Servers: []string{"ss:1"}}},
		"TLS without a pin":      {offered: &teeth.MinionServer{Addresses: []string{"a:1"}, Group: "chassis", ID: "x", Key: "k"}, aimed: true, over: true},
		"TLS":                    {offered: &teeth.MinionServer{Addresses: []string{"a:1"}, Group: "chassis", ID: "x", Key: "k"}, pin: strings.Repeat("ab", 32), aimed: true, over: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecords(t, boot.Options{Minion: tt.given, CASHA256: tt.pin})
			r.aim(tt.offered)
			if r.keeps() != tt.aimed || r.over.Load() != tt.over {
				t.Errorf("aimed %v, over the session %v; want %v, %v", r.keeps(), r.over.Load(), tt.aimed, tt.over)
			}
		})
	}
	var none *records
	none.welcomed(teeth.HandshakeResult{})
	none.attach(nil)
	none.task(teeth.TaskStatus{})
	none.taskStarted("t", "m")
	if none.keeps() || none.app("a", "b") || none.flush(t.Context()) != nil {
		t.Error("no records, and some are kept")
	}
}

func TestTaskLines(t *testing.T) {
	var l taskLines
	now := time.Now()
	at := func(seconds float64) time.Time { return now.Add(time.Duration(seconds * float64(time.Second))) }
	percent := func(p float64) *float64 { return &p }
	l.started("t", "decom.disk_erase")
	l.started("t", "another") // the same command came again
	for _, step := range []struct {
		at     float64
		status teeth.TaskStatus
		want   string
	}{
		{0, teeth.TaskStatus{State: teeth.Running, Percent: percent(0)}, "task=t method=decom.disk_erase state=running percent=0.0"},
		{1, teeth.TaskStatus{State: teeth.Running, Percent: percent(1)}, ""},
		{2, teeth.TaskStatus{State: teeth.Running, Percent: percent(2.25), Step: "sda: write", ETA: percent(61.5)}, `task=t method=decom.disk_erase state=running percent=2.2 eta=62s step="sda: write"`},
		{11, teeth.TaskStatus{State: teeth.Running, Percent: percent(3), Step: "sda: write"}, ""},
		{12, teeth.TaskStatus{State: teeth.Running, Percent: percent(4), Step: "sda: write"}, `task=t method=decom.disk_erase state=running percent=4.0 step="sda: write"`},
		{12.5, teeth.TaskStatus{State: teeth.Failed, Msg: "sda:\nbroken"}, `task=t method=decom.disk_erase state=error error="sda:\nbroken"`},
	} {
		step.status.TaskID = "t"
		if got, ok := l.line(step.status, at(step.at)); got != step.want || ok != (step.want != "") {
			t.Errorf("after %v s: %q, want %q", step.at, got, step.want)
		}
	}
	long, _ := l.line(teeth.TaskStatus{TaskID: "u", State: teeth.Complete, Result: json.RawMessage(strings.Repeat("x", 40<<10))}, now)
	if len(long) > 33<<10 || !strings.HasSuffix(long, "(8192 bytes more)") {
		t.Errorf("%d bytes: …%s", len(long), long[len(long)-30:])
	}
	for i := range 3 * maxTasks {
		l.started(fmt.Sprint(i), "m")
	}
	if len(l.known) > maxTasks {
		t.Errorf("%d tasks are remembered", len(l.known))
	}
}

func TestHide(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain",
		`Kernel command line: a=b teeth.token=x teeth.backbone=amqp://u:p@h/ quiet`: `Kernel command line: a=b teeth.token=(secret) teeth.backbone=(secret) quiet`,
		`Unknown kernel command line parameters "teeth.token=x", will be passed`:    `Unknown kernel command line parameters "teeth.token=(secret) will be passed`,
		`"teeth.token=two words" said "s3cret-value"`:                               `"teeth.token=(secret) words" said "(secret)"`,
	} {
		if got := hide(in, []string{"s3cret-value"}); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := hide(`"teeth.token=two words"`, []string{"two words"}); got != `"teeth.token=(secret)` && got != `"teeth.token=(secret)"` {
		t.Error(got)
	}
	if got := secretsOf(boot.Options{Token: "ab", Minion: boot.MinionOptions{Key: "long enough"}}); !slices.Equal(got, []string{"long enough"}) {
		t.Errorf("%q", got)
	}
}
