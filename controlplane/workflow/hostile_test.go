package workflow

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestAgentThatClaimsTooMuch(t *testing.T) {
	e, s := engine(t, &fake{}, time.Minute)
	c := chassis(t, s, "1.0", inventory)
	var st teeth.Status
	for i := range maxUnfinished + 1 {
		st.Tasks = append(st.Tasks, teeth.TaskStatus{TaskID: fmt.Sprint("t", i), State: teeth.Complete})
	}
	if err := e.Connected(t.Context(), c.ID, st); err != nil {
		t.Errorf("what it has done: %v", err)
	}
	for i := range st.Tasks {
		st.Tasks[i].State = teeth.Running
	}
	if err := e.Connected(t.Context(), c.ID, st); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("what it is at: %v", err)
	}
}

// The largest graph there can be, each of whose tasks waits for as many others as
// fit, in the worst order: when the one they all hang on fails, what that means for
// all others is found in one transaction, which nobody else is to wait long for.
func TestLargestGraph(t *testing.T) {
	e, s, c := countEngine(t, nil)
	var text strings.Builder
	for i := range definition.MaxSteps {
		var waits []string
		for j := i + 1; j < definition.MaxSteps && len(waits) < 25; j++ {
			waits = append(waits, fmt.Sprintf("t%d: [succeeded]", j))
		}
		fmt.Fprintf(&text, "  - {label: t%d, taskName: Task.Count, waitOn: {%s}}\n", i, strings.Join(waits, ", "))
	}
	c.fail[fmt.Sprint("t", definition.MaxSteps-1)] = 1
	began := time.Now()
	g := ended(t, s, run(t, e, Request{Inline: inline(t, text.String())}).ID)
	if g.State != store.Failed || states(g)["t0"] != "skipped" {
		t.Errorf("%s: %s", g.State, g.Msg)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("skipped after %v", took)
	}
}
