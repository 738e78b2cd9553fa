package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane"
)

func TestBackupAndRestoreCommands(t *testing.T) {
	serve(t)
	run := commands(t)
	dir := t.TempDir()
	file, restored := filepath.Join(dir, "teeth.tar.zst"), filepath.Join(dir, "data")
	run(2, "backup", filepath.Join(dir, "absent", "file"))
	run(2, "restore", filepath.Join(dir, "absent"), "--data", restored)
	run(0, "backup", file)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if out := run(0, "audit"); !strings.Contains(out, "POST /v1/backup") {
		t.Errorf("the backup is not in the audit trail: %s", out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, b[:len(b)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	run(1, "restore", cut, "--data", restored)
	if out := run(0, "restore", file, "--data", restored); !strings.Contains(out, "images are not part") || !strings.Contains(out, "logs, telemetry and commands are not part") {
		t.Error(out)
	}
	if out := run(1, "restore", file, "--data", restored); !strings.Contains(out, "not empty") {
		t.Error(out)
	}
	if st, err := os.Stat(filepath.Join(restored, "teeth.db")); err != nil || st.Size() == 0 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.Stat(controlplane.ClientFile(restored)); err == nil {
		t.Error("how to reach the old server was restored")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
