package controlplane

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Quality control gets a spec by its name, as it was when the work was ordered.
func TestDecommissionWithNamedSpec(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	steps := []string{"qc"}
	if _, err := s.client.Decommission(ctx, "sn1", client.Decommission{SpecName: "rack9000", Steps: steps}); !errors.Is(err, client.ErrNotFound) || !strings.Contains(err.Error(), "rack9000") {
		t.Errorf("a spec that is not there: %v", err)
	}
	if _, err := s.client.PutSpec(ctx, "rack9000", json.RawMessage(`{"cpu":{"min_cores":64}}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Decommission(ctx, "sn1", client.Decommission{SpecName: "rack9000", Spec: json.RawMessage(`{}`), Steps: steps}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("both: %v", err)
	}
	if _, err := s.client.Decommission(ctx, "sn1", client.Decommission{SpecName: "rack9000", Steps: steps}); err != nil {
		t.Fatal(err)
	}
	var qc teeth.QCParams
	a.accept(teeth.MethodQC, &qc)
	if strings.ReplaceAll(string(qc.Spec), " ", "") != `{"cpu":{"min_cores":64}}` {
		t.Errorf("spec: %s", qc.Spec)
	}
	a.report(teeth.TaskStatus{TaskID: qc.TaskID, State: teeth.Complete})
}
