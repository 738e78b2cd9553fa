package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func newMachine() *Machine {
	m := &Machine{Log: slog.New(slog.DiscardHandler), beat: make(chan chan struct{})}
	m.ctx, m.stop = context.WithCancelCause(context.Background())
	return m
}

func TestRun(t *testing.T) {
	bad := errors.New("bad")
	good := func(*Machine, context.Context) error { return nil }
	fails := func(*Machine, context.Context) error { return bad }
	waits := func(_ *Machine, ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := []struct {
		name   string
		stages []stage
		phases []string // sorted
		err    error
	}{
		{"all", []stage{{{{"a", true, good}, {"b", false, good}}}, {{{"c", true, good}}, {{"d", true, good}}}}, []string{"a", "b", "c", "d"}, nil},
		{"soft failure", []stage{{{{"a", false, fails}, {"b", true, good}}}}, []string{"a", "b"}, nil},
		{"essential failure", []stage{{{{"a", true, fails}, {"b", true, good}}}, {{{"c", true, good}}}}, []string{"a"}, bad},
		{"essential failure ends the others", []stage{{{{"a", true, fails}}, {{"b", false, waits}, {"c", true, good}}}}, []string{"a", "b"}, bad},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine()
			err := m.run(m.ctx, tt.stages)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("run: %v, want %v", err, tt.err)
			}
			var names []string
			for _, p := range m.Phases {
				names = append(names, p.Name)
				if p.Name == "a" && tt.err != nil && !errors.Is(p.Err, bad) {
					t.Errorf("phase a has error %v", p.Err)
				}
			}
			slices.Sort(names)
			if !slices.Equal(names, tt.phases) {
				t.Errorf("phases %v, want %v", names, tt.phases)
			}
		})
	}
}

// Chains of a stage must run side by side: each waits for the other here.
func TestRunParallel(t *testing.T) {
	a, b := make(chan bool), make(chan bool)
	m := newMachine()
	err := m.run(m.ctx, []stage{{
		{{"a", true, func(*Machine, context.Context) error { close(a); <-b; return nil }}},
		{{"b", true, func(*Machine, context.Context) error { close(b); <-a; return nil }}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHealthy(t *testing.T) {
	m := newMachine()
	go func() {
		for answer := range m.beat {
			answer <- struct{}{}
		}
	}()
	if !m.healthy() {
		t.Error("not healthy though the event loop answers")
	}
	m.SetHealth(func() bool { return false })
	if m.healthy() {
		t.Error("healthy against the word of the agent")
	}
}

func TestStartIsForPID1(t *testing.T) {
	if _, err := Start(context.Background()); err == nil || !strings.Contains(err.Error(), "process 1") {
		t.Errorf("Start in a test: %v", err)
	}
}

func TestReadIdentity(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  Identity
	}{
		{"filled in", map[string]string{"sys_vendor": "Dell Inc.\n", "product_name": "R640\n", "product_serial": "ABC1234\n", "product_uuid": "4C4C4544-0042-3510-8052-B4C04F4D3132\n"},
			Identity{"Dell Inc.", "R640", "ABC1234", "4c4c4544-0042-3510-8052-b4c04f4d3132"}},
		{"placeholders", map[string]string{"sys_vendor": "To Be Filled By O.E.M.", "product_serial": "Default string", "product_uuid": "00000000-0000-0000-0000-000000000000"}, Identity{}},
		{"all ones", map[string]string{"product_uuid": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}, Identity{}},
		{"not a UUID", map[string]string{"product_uuid": "4c4c4544004235108052b4c04f4d3132"}, Identity{}},
		{"no SMBIOS", nil, Identity{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "class/dmi/id")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for n, c := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(c), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := ReadIdentity(root); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestDiskMounts(t *testing.T) {
	const mounts = "rootfs / rootfs rw 0 0\n" +
		"tmpfs /tmp tmpfs rw 0 0\n" +
		"/dev/sda2 /mnt ext4 rw 0 0\n" +
		"/dev/sda1 /mnt/boot\\040efi vfat rw 0 0\n" +
		"broken\n"
	want := []string{"/mnt/boot efi", "/mnt"}
	if got := diskMounts(mounts); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDiskNames(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"block/sda/device", "block/loop0", "block/nvme0n1/device"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := diskNames(root); !slices.Equal(got, []string{"nvme0n1", "sda"}) {
		t.Errorf("got %q", got)
	}
}

func TestKernelPanicReboots(t *testing.T) {
	for _, tt := range []struct{ have, want string }{{"0\n", "30\n"}, {"5\n", "5\n"}, {"-1\n", "-1\n"}} {
		path := filepath.Join(t.TempDir(), "panic")
		if err := os.WriteFile(path, []byte(tt.have), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := kernelPanicReboots(path); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != tt.want {
			t.Errorf("%q became %q, want %q", tt.have, got, tt.want)
		}
	}
}

func TestRestrictKernelLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dmesg_restrict")
	if err := restrictKernelLog(path + "/not-there"); err != nil {
		t.Error("a kernel without it:", err)
	}
	if err := os.WriteFile(path, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := restrictKernelLog(path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "1\n" {
		t.Errorf("%q", got)
	}
	if err := restrictKernelLog(dir); err == nil {
		t.Error("no error")
	}
}

func TestServersFromCommandLine(t *testing.T) {
	m := newMachine()
	m.Options.Servers = []string{"a:1"}
	if got := m.Servers(); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("got %q", got)
	}
	m.Options.Servers = nil
	if got := m.Servers(); got != nil {
		t.Errorf("got %q without a network", got)
	}
}

// The entropy phase must not wait on a machine that has been up for long.
func TestEntropy(t *testing.T) {
	began := time.Now()
	if err := newMachine().entropy(context.Background()); err != nil || time.Since(began) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}
