package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

const packaging = "../../packaging/"

// The settings that are installed, and those it shows in comments, are settings.
func TestInstalledConfiguration(t *testing.T) {
	b, err := os.ReadFile(packaging + "teeth.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^# ([a-z-]+:)`).ReplaceAll(b, []byte("$1"))
	for _, text := range [][]byte{b, shown} {
		cmd := serveCommand()
		if err := setFlags(cmd.Flags(), text); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
		if !cmd.Flags().Changed("data") || !cmd.Flags().Changed("metrics") {
			t.Error("its settings have not been set")
		}
	}
}

func TestInstall(t *testing.T) {
	need.Time(t, "builds the program")
	need.Program(t, "make", "make")
	dir := t.TempDir()
	binary := filepath.Join(dir, "teeth")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := filepath.Join(dir, "root")
	install := func() {
		t.Helper()
		if out, err := exec.Command("make", "-C", "../..", "install", "TEETH="+binary, "OUT="+dir, "DESTDIR="+root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	install()
	settings := filepath.Join(root, "etc/teeth/teeth.yaml")
	if err := os.WriteFile(settings, []byte("data: /mine\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	install() // again, as an upgrade
	if b, err := os.ReadFile(settings); err != nil || string(b) != "data: /mine\n" {
		t.Errorf("an upgrade has replaced the operator's settings: %q, %v", b, err)
	}
	for path, mode := range map[string]os.FileMode{
		"usr/bin/teeth": 0o755, "usr/lib/systemd/system/teeth.service": 0o644, "usr/lib/sysusers.d/teeth.conf": 0o644,
		"etc/teeth/teeth.yaml": 0o640, "usr/share/bash-completion/completions/teeth": 0o644,
	} {
		if st, err := os.Stat(filepath.Join(root, path)); err != nil || st.Mode().Perm() != mode || st.Size() == 0 {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}

	// systemd itself finds nothing wrong with the unit.
	need.Program(t, "systemd-analyze", "systemd")
	unit := filepath.Join(root, "usr/lib/systemd/system/teeth.service")
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	b = []byte(strings.ReplaceAll(string(b), "/usr/bin/teeth", binary)) // it looks whether the program is there
	b = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAll(b, nil)
	if err := os.WriteFile(unit, b, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "teeth.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
