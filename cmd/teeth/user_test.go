package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func TestUsersTokensAudit(t *testing.T) {
	serve(t)
	run := func(line string, want int) string {
		t.Helper()
		out, errs, code := teethCommand(t, strings.Fields(line)...)
		if code != want {
			t.Fatalf("teeth %s: %d, want %d: %s", line, code, want, errs)
		}
		return out + errs
	}
	file := filepath.Join(t.TempDir(), "ann.json")
	run("user add ann --role operator", 0)
	run("user add ann --role operator", 1)
	run("user add eve --role root", 2) // HTTP 400 is wrong usage
	run("token create laptop --user ann --role operator --expires 90d --client-file "+file, 0)
	run("token create laptop --user ann --expires soon", 2)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if out := run("user whoami -o json --client "+file, 0); !strings.Contains(out, `"ann"`) || !strings.Contains(out, `"operator"`) {
		t.Error(out)
	}
	if out := run("user list --client "+file, 1); !strings.Contains(out, "needs the role admin") {
		t.Error(out)
	}
	spec := filepath.Join(t.TempDir(), "rack9000.json")
	if err := os.WriteFile(spec, []byte(`{"cpu":{"min_cores":64}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run("spec add "+spec+" --client "+file, 0)
	run("spec add /nonexistent", 2)
	if out := run("spec list", 0); !strings.Contains(out, "rack9000") {
		t.Error(out)
	}
	if out := run("spec show rack9000", 0); strings.TrimSpace(out) != `{"cpu":{"min_cores":64}}` {
		t.Error(out)
	}
	run("spec remove rack9000", 0)
	run("spec remove rack9000", 3)
	var tokens []client.Token
	if err := json.Unmarshal([]byte(run("token list --user ann -o json", 0)), &tokens); err != nil || len(tokens) != 1 || tokens[0].Expires == nil {
		t.Fatalf("%+v, %v", tokens, err)
	}
	run("user role ann viewer", 0)
	run("spec add "+spec+" --client "+file, 1)
	run("token revoke "+tokens[0].ID, 0)
	run("user whoami --client "+file, 1)
	run("user remove ann", 0)
	run("user remove ann", 3)
	out := run("audit --limit 0", 0)
	for _, want := range []string{"DELETE /v1/users/ann", "PUT /v1/specs/rack9000", "ann", "laptop", "403"} {
		if !strings.Contains(out, want) {
			t.Errorf("the audit trail lacks %q:\n%s", want, out)
		}
	}
}
