package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const inventory = `{"disks":[
	{"name":"nvme0n1","path":"/dev/nvme0n1","size":8589934592,"serial":"NVME1","wwn":"eui.1","transport":"nvme","model":"QEMU NVMe Ctrl"},
	{"name":"vda","path":"/dev/vda","size":5368709120,"serial":"VDA1","transport":"virtio"},
	{"name":"vdb","path":"/dev/vdb","size":1073741824,"serial":"","transport":"virtio"},
	{"name":"sda","path":"/dev/sda","size":4294967296,"serial":"STICK","transport":"usb","removable":true},
	{"name":"sdb","path":"/dev/sdb","size":4294967296,"serial":"RO","transport":"sata","read_only":true}]}`

func chassis(t *testing.T, s *store.Store, version string, inventory string) store.Chassis {
	t.Helper()
	c, err := s.Connect(t.Context(), store.Session{ID: "1", Rules: []store.Rule{{Kind: store.RuleAll}}, Endpoint: "10.0.2.2",
		Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", Version: version, BootID: "boot1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus(t.Context(), c.ID, teeth.Status{Inventory: json.RawMessage(inventory)}); err != nil {
		t.Fatal(err)
	}
	if c, err = s.Chassis(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return c
}

// fake is a session whose answers a test gives.
type fake struct {
	legacy bool
	answer func(ctx context.Context, method string, params json.RawMessage) error

	mu     sync.Mutex
	calls  []string
	closed error
}

func (f *fake) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	b, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.calls = append(f.calls, method+" "+string(b))
	f.mu.Unlock()
	if f.answer != nil {
		return json.RawMessage("{}"), f.answer(ctx, method, b)
	}
	return json.RawMessage("{}"), nil
}
func (f *fake) ID() string         { return "1" }
func (f *fake) Legacy() bool       { return f.legacy }
func (f *fake) BootID() string     { return "boot1" }
func (f *fake) Close(reason error) { f.mu.Lock(); f.closed = reason; f.mu.Unlock() }

func (f *fake) called() []string { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }

// silence is long enough for all tests but that of silence.
const silence = time.Second

func engine(t *testing.T, session *fake, answer time.Duration) (*Engine, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{
		Store:   s,
		Session: func(string) (Session, bool) { return session, session != nil },
		BootURL: func(c store.Chassis) (string, error) { return "http://" + c.Endpoint + ":8082", nil },
		Log:     slog.New(slog.DiscardHandler),
		Answer:  answer, Poll: 50 * time.Millisecond, Silence: silence,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return e, s
}

func ended(t *testing.T, s *store.Store, run string) store.Graph {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if r, err := s.Graph(t.Context(), run); err != nil || r.State != store.Running && r.State != store.Pending {
			return r
		}
	}
	t.Fatal("the run does not end")
	panic("unreachable")
}

func TestDecommissionIsChecked(t *testing.T) {
	e, s := engine(t, nil, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	for name, o := range map[string]Decommission{
		"method":          {Method: "hammer"},
		"verify":          {Verify: "maybe"},
		"spec":            {Spec: json.RawMessage(`{"no_such_key":1}`)},
		"unknown disk":    {Disks: []string{"NVME2"}},
		"no name":         {Disks: []string{""}},
		"one disk twice":  {Disks: []string{"NVME1", "nvme0n1"}},
		"part of a name":  {Disks: []string{"nvme"}},
		"wildcard":        {Disks: []string{"*"}},
		"another chassis": {Disks: []string{"VDA1", "S3"}},
		"unknown step":    {Steps: []string{"erase", "polish"}},
		"a step twice":    {Steps: []string{"qc", "qc"}},
		"disks, no erase": {Steps: []string{"qc"}, Disks: []string{"VDA1"}},
	} {
		if r, err := e.Decommission(t.Context(), c, o, ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if r, err := e.Decommission(t.Context(), c, Decommission{Steps: []string{"qc", "erase"}, Disks: []string{"VDA1"}}, ""); err != nil ||
		len(r.Tasks) != 2 || r.Tasks[0].Method != teeth.MethodQC || r.Tasks[1].Method != teeth.MethodDiskErase || len(r.Tasks[1].Waits.All[r.Tasks[0].Label]) != 1 {
		t.Errorf("chosen steps: %+v, %v", r, err)
	}
	c.Inventory = json.RawMessage(`{"disks":[]}`)
	if _, _, err := e.planErase(t.Context(), c, json.RawMessage(`{}`)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("without disks: %v", err)
	}
	c.Inventory = nil
	if _, _, err := e.planErase(t.Context(), c, json.RawMessage(`{}`)); !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "inspected") {
		t.Errorf("without an inventory: %v", err)
	}
}

// An error that lists the disks quotes what the agent says of them.
func TestListingIsPrintable(t *testing.T) {
	many := make([]disk, 1000)
	for i := range many {
		many[i] = disk{Name: "\x1b[2J" + strings.Repeat("x", 1000), Serial: strings.Repeat("y", 1000)}
	}
	_, err := choose(many, []string{"none"})
	if err == nil || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 16<<10 {
		t.Errorf("%d bytes: %.200q", len(err.Error()), err)
	}
}

func TestRootDevice(t *testing.T) {
	c := store.Chassis{Inventory: json.RawMessage(inventory)}
	for name, k := range map[string]struct {
		hint *teeth.RootDevice
		want string
	}{
		"no hint":      {nil, "VDA1"},
		"empty hint":   {&teeth.RootDevice{}, "VDA1"},
		"serial":       {&teeth.RootDevice{Disk: teeth.Disk{Serial: "nvme1 "}}, "NVME1"},
		"model":        {&teeth.RootDevice{Model: "qemu nvme"}, "NVME1"},
		"minimum":      {&teeth.RootDevice{MinSize: 6 << 30}, "NVME1"},
		"USB if asked": {&teeth.RootDevice{Transport: "usb"}, "STICK"},
	} {
		if got, err := rootDevice(c, k.hint); err != nil || got.Serial != k.want || got.Size == 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, hint := range map[string]*teeth.RootDevice{
		"too large": {MinSize: 1 << 40}, "read-only": {Disk: teeth.Disk{Serial: "RO"}}, "other WWN": {Disk: teeth.Disk{Serial: "NVME1", WWN: "eui.2"}},
	} {
		if got, err := rootDevice(c, hint); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestProvisionIsChecked(t *testing.T) {
	e, s := engine(t, nil, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	if err := s.AddImage(t.Context(), store.Image{ID: "11111111-2222-4333-8444-555555555555", Name: "img", Format: "raw"}); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Provision{
		"hostname":           {Hostname: "a b"},
		"hostname with a -":  {Hostname: "-a"},
		"hostname with ../":  {Hostname: "../etc"},
		"boot":               {Boot: "magic"},
		"network data":       {NetworkData: json.RawMessage(`[1]`)},
		"key":                {SSHKeys: []string{"hello"}},
		"key of two lines":   {SSHKeys: []string{"ssh-ed25519 AAAA a\nssh-rsa BBBB b"}},
		"key with options":   {SSHKeys: []string{`command="x" ssh-ed25519 AAAA`}},
		"relative file":      {Files: map[string][]byte{"etc/x": nil}},
		"file with ..":       {Files: map[string][]byte{"/etc/../x": nil}},
		"file with newline":  {Files: map[string][]byte{"/etc/a\nb": nil}},
		"more than a line":   {UserData: strings.Repeat("x", teeth.MaxLine)},
		"no such root disk":  {RootDevice: &teeth.RootDevice{MinSize: 1 << 50}},
		"the root directory": {Files: map[string][]byte{"/": nil}},
	} {
		o.Image = "img"
		if r, err := e.Provision(t.Context(), c, o, ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := e.Provision(t.Context(), c, Provision{Image: "other"}, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown image: %v", err)
	}
	if open, err := s.OpenTasks(t.Context(), c.ID); err != nil || len(open) != 0 {
		t.Errorf("refused requests have left tasks: %v, %v", open, err)
	}
}

func TestLegacyChassisIsNotSentWhatItDoesNotKnow(t *testing.T) {
	session := &fake{legacy: true}
	e, s := engine(t, session, time.Minute)
	c := chassis(t, s, teeth.LegacyVersion, inventory)
	r, err := e.Decommission(t.Context(), c, Decommission{}, "")
	if err != nil {
		t.Fatal(err)
	}
	r = ended(t, s, r.ID)
	if r.State != store.Failed || !strings.Contains(r.Tasks[0].Msg, "original agent") {
		t.Errorf("%+v", r)
	}
	if calls := session.called(); len(calls) != 0 {
		t.Errorf("it was sent %q", calls)
	}
}

func TestNoAnswer(t *testing.T) {
	session := &fake{answer: func(ctx context.Context, _ string, _ json.RawMessage) error { <-ctx.Done(); return ctx.Err() }}
	e, s := engine(t, session, 200*time.Millisecond)
	c := chassis(t, s, "1.0", inventory)
	r, err := e.Decommission(t.Context(), c, Decommission{}, "")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		session.mu.Lock()
		closed := session.closed
		session.mu.Unlock()
		if closed != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a session that does not answer is kept")
		}
	}
	if r, err = s.Graph(t.Context(), r.ID); err != nil || r.Tasks[0].State != store.Running {
		t.Errorf("%+v, %v", r, err)
	}
	if calls := session.called(); len(calls) != 1 {
		t.Errorf("sent %d times: %q", len(calls), calls)
	}
}

// An agent that accepts a task and never reports on it is made to connect anew,
// and the operator is told, once.
func TestSilentAgent(t *testing.T) {
	session := &fake{}
	e, s := engine(t, session, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	r, err := e.Decommission(t.Context(), c, Decommission{}, "")
	if err != nil {
		t.Fatal(err)
	}
	closed := func() error {
		session.mu.Lock()
		defer session.mu.Unlock()
		return session.closed
	}
	// As long as it reports, however little, it is left alone.
	for seq := range uint64(30) {
		st := teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Running, Seq: seq + 1}
		if _, err := s.ApplyStatus(t.Context(), c.ID, "boot1", st); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := closed(); err != nil {
		t.Fatalf("closed while it reports: %v", err)
	}
	for range 2 { // once more each time it is silent for so long
		for end := time.Now().Add(20 * time.Second); closed() == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a silent agent is left alone")
			}
		}
		session.Close(nil)
	}
	list, err := s.Events(t.Context(), c.ID, 0)
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Message, r.Tasks[0].ID) {
		t.Errorf("events %+v, %v", list, err)
	}
}

// Being away is not silence.
func TestAbsentAgentIsNotSilent(t *testing.T) {
	e, s := engine(t, nil, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	r, err := e.Decommission(t.Context(), c, Decommission{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.MarkStarted(t.Context(), r.Tasks[0].ID, store.Start{Session: "1", BootID: "boot1"}); err != nil {
		t.Fatal(err)
	}
	session, connected := &fake{}, true
	other := New(Config{Store: s, Log: slog.New(slog.DiscardHandler), Silence: 100 * time.Millisecond,
		Session: func(string) (Session, bool) { return session, connected }})
	for _, connected = range []bool{true, false, true} {
		if _, err := other.step(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		if session.closed != nil {
			t.Fatalf("closed on its return: %v", session.closed)
		}
		if connected {
			time.Sleep(150 * time.Millisecond)
		}
	}
}

// However often it is woken, a chassis is given each task once.
func TestEachTaskIsSentOnce(t *testing.T) {
	var e *Engine
	var s *store.Store
	var id string
	session := &fake{}
	session.answer = func(ctx context.Context, method string, params json.RawMessage) error {
		var p teeth.TaskParams
		if err := json.Unmarshal(params, &p); err != nil {
			return err
		}
		for range 20 {
			e.Wake(id)
		}
		_, err := s.ApplyStatus(ctx, id, "boot1", teeth.TaskStatus{TaskID: p.TaskID, State: teeth.Complete})
		return err
	}
	e, s = engine(t, session, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	id = c.ID
	r, err := e.Decommission(t.Context(), c, Decommission{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if r = ended(t, s, r.ID); r.State != store.Succeeded {
		t.Errorf("%+v", r)
	}
	if calls := session.called(); len(calls) != 3 {
		t.Errorf("sent %d times: %q", len(calls), calls)
	}
}

func FuzzProvisionCheck(f *testing.F) {
	f.Add("web1", "ssh-ed25519 AAAA me", "/etc/motd", "auto")
	f.Add("-", "ssh-rsa AAAA\nx", "/../x", "")
	f.Fuzz(func(t *testing.T, host, key, file, boot string) {
		o := Provision{Hostname: host, SSHKeys: []string{key}, Files: map[string][]byte{file: nil}, Boot: boot}
		if o.check() != nil {
			return
		}
		if strings.ContainsAny(host, "/\n \"") || strings.ContainsAny(key, "\r\n") || !strings.HasPrefix(file, "/") || strings.Contains(file, "/../") {
			t.Errorf("%+v passed", o)
		}
	})
}

// What was given up while its chassis was away is stopped when it is back.
func TestGivenUpWorkIsStopped(t *testing.T) {
	session := &fake{}
	e, s := engine(t, session, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	g, err := e.Decommission(t.Context(), c, Decommission{Steps: []string{"erase"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	id := g.Tasks[0].ID
	for end := time.Now().Add(20 * time.Second); len(session.called()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is sent")
		}
	}
	if g, err = e.GiveUpGraph(t.Context(), g.ID); err != nil || g.State != store.Cancelled {
		t.Fatal(g.State, err)
	}
	if err := e.Connected(t.Context(), c.ID, teeth.Status{Tasks: []teeth.TaskStatus{{TaskID: id, State: teeth.Running}}}); err != nil {
		t.Fatal(err)
	}
	e.Wake(c.ID)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		calls := session.called()
		if last := calls[len(calls)-1]; strings.HasPrefix(last, teeth.MethodTaskCancel) && strings.Contains(last, id) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it goes on: %q", calls)
		}
	}
}
