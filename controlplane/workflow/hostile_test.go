package workflow

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
