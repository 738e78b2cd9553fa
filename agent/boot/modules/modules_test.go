package modules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", true},
		{"pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010D4sv00008086sd00000000bc02sc00i00", false},
		{"pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", true},
		{"of:N*T*Cvendor,chip*", "of:NaTbCvendor,chip/2", true}, // '*' crosses '/'
		{"a?c", "a/c", true},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5567d0100dc00dsc00dp00ic08isc06ip50in00", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0094*", "cpu:type:x86,ven0000fam0006mod0006:feature:,0000,0094,00A0", true},
		{"[abc]x", "bx", true},
		{"[!abc]x", "bx", false},
		{"[^abc]x", "dx", true},
		{"[a-c]", "b", true},
		{"[]a]", "]", true},
		{"[a-]", "-", true},
		{"[a", "[a", true},
		{"[", "[", true},
		{`\*`, "*", true},
		{`\*`, "x", false},
		{`\`, `\`, true},
		{"*", "", true},
		{"", "", true},
		{"", "x", false},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
	}
	for _, tt := range tests {
		if got := match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("match(%q, %q) = %t", tt.pattern, tt.name, got)
		}
	}
	// A pattern that makes a backtracking matcher take for ever.
	began := time.Now()
	if match(strings.Repeat("a*", 2000)+"b", strings.Repeat("a", 4000)) || time.Since(began) > 10*time.Second {
		t.Errorf("hostile pattern took %s", time.Since(began))
	}
}

// FuzzMatch holds match against filepath.Match, which has the same rules for
// patterns without a '/', where both take the pattern for valid.
func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"a*b?[c-e]", "axxbyd"}, {"[^a]*", "bcd"}, {"*", ""}, {"[!x", "a"}, {`\[a`, "[a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 200 || len(name) > 200 {
			return
		}
		got := match(pattern, name)
		ascii := func(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 126 || r == '/' }) }
		if !ascii(pattern) || !ascii(name) || strings.ContainsAny(pattern, "[]\\") {
			return // brackets differ in their corner cases
		}
		want, err := filepath.Match(pattern, name)
		if err == nil && got != want {
			t.Errorf("match(%q, %q) = %t, filepath.Match %t", pattern, name, got, want)
		}
	})
}

func TestUnderscores(t *testing.T) {
	for in, want := range map[string]string{"nls-iso8859_1": "nls_iso8859_1", "a[0-9]-b": "a[0-9]_b", "a-[": "a_[", "": ""} {
		if got := underscores(in); got != want {
			t.Errorf("underscores(%q) = %q, want %q", in, got, want)
		}
	}
}

// tree writes the index files of a small kernel.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"modules.dep": `kernel/drivers/nvme/host/nvme-core.ko: kernel/lib/t10-pi.ko
kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko kernel/lib/t10-pi.ko
kernel/lib/t10-pi.ko:
kernel/fs/nls/nls_iso8859-1.ko:
kernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2.ko
kernel/fs/jbd2.ko:
kernel/crypto/crc32c_generic.ko:
kernel/crypto/crc32c-intel.ko:
kernel/a.ko:
kernel/b.ko:
kernel/net/e1000e.ko:
kernel/video/nouveau.ko:
`,
		"modules.softdep": "# comment\nsoftdep ext4 pre: crc32c\nsoftdep a pre: b post: t10_pi\nsoftdep b pre: a missing\nsoftdep jbd2 stray pre: \n",
		"modules.alias": `alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau
alias crc32c crc32c_generic
alias crc32c crc32c_intel
alias fs-ext4 ext4
alias dmi:*:svnMaker-X:* a
alias pci:v1* gone_module
`,
		"modules.builtin": "kernel/drivers/block/loop.ko\n",
	}
	for n, c := range files {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fakeKernel stands for finit_module.
type fakeKernel struct {
	mu     sync.Mutex
	order  []string
	params map[string]string
	fail   map[string]error
}

func (k *fakeKernel) insert(path, params string) error {
	time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	k.mu.Lock()
	defer k.mu.Unlock()
	name := moduleName(path)
	if slices.Contains(k.order, name) {
		return errors.New("loaded twice")
	}
	k.order = append(k.order, name)
	if k.params == nil {
		k.params = map[string]string{}
	}
	k.params[name] = params
	return k.fail[name]
}

func newLoader(t *testing.T, fail map[string]error) (*Loader, *fakeKernel) {
	t.Helper()
	ix, err := Open(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKernel{fail: fail}
	return &Loader{Index: ix, insert: k.insert}, k
}

func TestLookup(t *testing.T) {
	ix, err := Open(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{
		"nvme":          {"nvme"},
		"nls_iso8859-1": {"nls_iso8859_1"}, // what u-root's kmodule never finds
		"nls-iso8859_1": {"nls_iso8859_1"},
		"crc32c":        {"crc32c_generic", "crc32c_intel"},
		"fs-ext4":       {"ext4"},
		"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00": {"e1000e"},
		"pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02": {"nvme"},
		"dmi:bvn:svnMaker-X:pn":                                 {"a"},
		"loop":                                                  nil, // built in
		"nonsense":                                              nil,
		"pci:v1":                                                nil, // its module is not packed
	}
	for name, want := range tests {
		if got := ix.Lookup(name); !slices.Equal(got, want) {
			t.Errorf("Lookup(%q) = %q, want %q", name, got, want)
		}
	}
	if ix.Len() != 12 {
		t.Errorf("%d modules", ix.Len())
	}
}

func TestLoad(t *testing.T) {
	tests := []struct {
		name   string
		load   []string
		fail   map[string]error
		denied []string
		before [][2]string // pairs in this order
		all    []string    // sorted, nil means not checked
		err    string
	}{
		{"dependencies first", []string{"nvme"}, nil, nil, [][2]string{{"t10_pi", "nvme_core"}, {"nvme_core", "nvme"}}, []string{"nvme", "nvme_core", "t10_pi"}, ""},
		{"soft dependency by alias", []string{"ext4"}, nil, nil, [][2]string{{"crc32c_generic", "ext4"}, {"crc32c_intel", "ext4"}, {"jbd2", "ext4"}}, nil, ""},
		{"soft cycle", []string{"a"}, nil, nil, [][2]string{{"b", "a"}, {"a", "t10_pi"}}, []string{"a", "b", "t10_pi"}, ""},
		{"once each", []string{"nvme", "nvme-core", "nvme", "ext4", "a", "b"}, nil, nil, nil, nil, ""},
		{"no hardware", []string{"nvme"}, map[string]error{"nvme": unix.ENODEV}, nil, nil, nil, ""},
		{"there already", []string{"nvme"}, map[string]error{"nvme_core": unix.EEXIST}, nil, nil, nil, ""},
		{"soft failure of a soft dependency", []string{"ext4"}, map[string]error{"crc32c_intel": unix.EINVAL}, nil, nil, nil, ""},
		{"failure names both", []string{"nvme"}, map[string]error{"nvme": unix.ENOENT, "t10_pi": unix.EIO}, nil, nil, nil, "module t10_pi: input/output error"},
		{"failure", []string{"e1000e", "nvme"}, map[string]error{"e1000e": unix.EKEYREJECTED}, nil, nil, nil, "module e1000e: key was rejected"},
		{"denied", []string{"nouveau"}, nil, []string{"nouveau"}, nil, []string{}, ""},
		{"denied dependency", []string{"nvme"}, map[string]error{"nvme": unix.ENOENT}, []string{"nvme-core"}, nil, nil, "denied on the kernel command line"},
		{"unknown", []string{"nonsense"}, nil, nil, nil, []string{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, k := newLoader(t, tt.fail)
			l.Denied = tt.denied
			l.Params = map[string]string{"nvme": "io_timeout=7"}
			err := l.Load(t.Context(), tt.load...)
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("Load: %v", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("Load: %v, want %q", err, tt.err)
			}
			for _, p := range tt.before {
				i, j := slices.Index(k.order, p[0]), slices.Index(k.order, p[1])
				if i < 0 || j < 0 || i > j {
					t.Errorf("%s is not before %s in %q", p[0], p[1], k.order)
				}
			}
			if tt.all != nil {
				got := slices.Clone(k.order)
				slices.Sort(got)
				if !slices.Equal(got, tt.all) {
					t.Errorf("loaded %q, want %q", got, tt.all)
				}
			}
			if p, ok := k.params["nvme"]; ok && p != "io_timeout=7" {
				t.Errorf("nvme has parameters %q", p)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no modules.dep: %v", err)
	}
	for _, tt := range [][2]string{
		{"modules.dep", "../../etc/x.ko:\n"}, {"modules.dep", "/abs.ko:\n"}, {"modules.dep", "no colon\n"},
		{"modules.alias", "alias x\n"}, {"modules.softdep", "soft x\n"},
	} {
		dir := tree(t)
		if err := os.WriteFile(filepath.Join(dir, tt[0]), []byte(tt[1]), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), tt[0]) {
			t.Errorf("%s with %q: %v", tt[0], tt[1], err)
		}
	}
}

// device adds a device to a fake sysfs.
func device(t *testing.T, sysfs, path, modalias string) {
	t.Helper()
	dir := filepath.Join(sysfs, "devices", path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

const (
	nicAlias  = "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"
	nvmeAlias = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"
)

// TestColdplug has one device at the start, one that appears in the tree when
// the first driver is loaded, and one that only an event tells of.
func TestColdplug(t *testing.T) {
	sysfs := t.TempDir()
	device(t, sysfs, "pci0000:00/0000:00:03.0", nvmeAlias)
	l, k := newLoader(t, map[string]error{"b": unix.EIO})
	insert := k.insert
	l.insert = func(path, params string) error {
		if strings.HasSuffix(path, "/nvme.ko") {
			device(t, sysfs, "pci0000:00/0000:00:04.0/sub", nicAlias)
		}
		return insert(path, params)
	}
	events := make(chan event)
	failed := make(chan error, 10)
	p := &Plugger{Loader: l, Sysfs: sysfs,
		Failed: func(err error) { failed <- err },
		events: func(context.Context) (<-chan event, error) { return events, nil }}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if !p.Settle(ctx, 10*time.Millisecond, 20*time.Second) {
		t.Fatal("does not settle")
	}
	loaded := func() []string {
		k.mu.Lock()
		defer k.mu.Unlock()
		return slices.Clone(k.order)
	}
	for _, want := range []string{"nvme", "e1000e"} {
		if !slices.Contains(loaded(), want) {
			t.Errorf("%s is not loaded: %q", want, loaded())
		}
	}
	events <- event{modalias: "fs-ext4"}
	events <- event{modalias: "fs-ext4"}
	events <- event{modalias: "b"}
	device(t, sysfs, "lost", "nls_iso8859-1")
	events <- event{overrun: true}
	events <- event{} // after this the overrun has been dealt with
	if !p.Settle(ctx, 10*time.Millisecond, 20*time.Second) {
		t.Fatal("does not settle after events")
	}
	for _, want := range []string{"ext4", "nls_iso8859_1"} {
		if !slices.Contains(loaded(), want) {
			t.Errorf("%s is not loaded: %q", want, loaded())
		}
	}
	select {
	case err := <-failed:
		if !errors.Is(err, unix.EIO) {
			t.Errorf("Failed was told %v", err)
		}
	default:
		t.Error("Failed was not told")
	}
}

// An NVMe controller that is still starting, and a driver that never ends,
// both keep Settle from saying that all is done.
func TestSettleLimit(t *testing.T) {
	sysfs := t.TempDir()
	state := filepath.Join(sysfs, "class/nvme/nvme0/state")
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(sysfs, "devices"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, []byte("connecting\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, _ := newLoader(t, nil)
	p := &Plugger{Loader: l, Sysfs: sysfs, events: func(context.Context) (<-chan event, error) { return nil, errors.New("no socket") }}
	if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Fatalf("Start: %v", err)
	}
	if p.Settle(t.Context(), time.Millisecond, 100*time.Millisecond) {
		t.Error("settled while an NVMe controller is connecting")
	}
	if err := os.WriteFile(state, []byte("live\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !p.Settle(t.Context(), time.Millisecond, 10*time.Second) {
		t.Error("not settled though the NVMe controller is live")
	}
	release := make(chan struct{})
	defer close(release)
	l.insert = func(string, string) error { <-release; return nil }
	p.plug("a")
	if p.Settle(t.Context(), time.Millisecond, 100*time.Millisecond) {
		t.Error("settled while a driver is being loaded")
	}
}

func TestNICsFirst(t *testing.T) {
	l, _ := newLoader(t, nil)
	p := &Plugger{Loader: l, seen: map[string]bool{}, wake: sync.NewCond(&sync.Mutex{})}
	for _, a := range []string{nvmeAlias, "acpi:PNP0A03:", nicAlias, nvmeAlias, "virtio:d00000001v00001AF4"} {
		p.plug(a)
	}
	want := []string{"virtio:d00000001v00001AF4", nicAlias, nvmeAlias, "acpi:PNP0A03:"}
	if !slices.Equal(p.queue, want) {
		t.Errorf("queue %q, want %q", p.queue, want)
	}
}

func TestParseUevent(t *testing.T) {
	msg := func(f ...string) []byte { return []byte(strings.Join(f, "\x00") + "\x00") }
	tests := []struct {
		b    []byte
		want event
	}{
		{msg("add@/devices/x", "ACTION=add", "MODALIAS=pci:v1", "SEQNUM=1"), event{modalias: "pci:v1"}},
		{msg("remove@/devices/x", "ACTION=remove", "MODALIAS=pci:v1"), event{}},
		{msg("add@/devices/x", "ACTION=add"), event{}},
		{nil, event{}},
	}
	for _, tt := range tests {
		if got := parseUevent(tt.b); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.b, got, tt.want)
		}
	}
}

// The real socket of this machine's kernel: it opens without privilege, and
// closes with its context.
func TestUeventSocket(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	events, err := uevents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the socket outlives its context")
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("kernel/a.ko: kernel/b.ko\nkernel/b.ko:", "alias a* b", "softdep a pre: b post: a", "a")
	f.Add("a/b-c.ko:", "alias pci:v* b_c", "softdep b_c pre: b_c", "pci:v1")
	f.Fuzz(func(t *testing.T, dep, alias, soft, name string) {
		if len(dep)+len(alias)+len(soft)+len(name) > 4096 {
			return
		}
		ix, err := read("x", fstest.MapFS{
			"modules.dep":     {Data: []byte(dep)},
			"modules.alias":   {Data: []byte(alias)},
			"modules.softdep": {Data: []byte(soft)},
		})
		if err != nil {
			return
		}
		for _, m := range ix.Lookup(name) {
			plan := ix.plan(m)
			if !slices.Contains(plan, m) {
				t.Errorf("plan of %q is %q", m, plan)
			}
			seen := map[string]bool{}
			for _, x := range plan {
				if seen[x] || !fs.ValidPath(ix.files[x]) {
					t.Errorf("plan %q has %q twice or outside of the tree: %s", plan, x, fmt.Sprint(ix.files[x]))
				}
				seen[x] = true
			}
		}
	})
}
