package store

import (
	"errors"
	"testing"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// What an agent says of itself may not get in the way of an id or of a name that
// the operator gave, or lead the beginning of an id elsewhere.
func TestAgentCannotTakeAnothersName(t *testing.T) {
	s := newStore(t)
	victim := connect(t, s, "52:54:00:00:00:01")
	if err := s.SetName(t.Context(), victim.ID, "web-7"); err != nil {
		t.Fatal(err)
	}
	for i, serial := range []string{victim.ID, "web-7", victim.ID[:8]} {
		_, err := s.Connect(t.Context(), Session{ID: serial, Handshake: teeth.Handshake{
			ID: "52:54:00:00:01:0" + string(rune('0'+i)), Version: "1", Serial: serial}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{victim.ID, "web-7", "WEB-7"} {
		if got, err := s.FindChassis(t.Context(), ref); err != nil || got.ID != victim.ID {
			t.Errorf("FindChassis(%q): %s, %v", ref, got.ID, err)
		}
	}
	if got, err := s.FindChassis(t.Context(), victim.ID[:8]); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("the beginning of an id that is another's serial number: %s, %v", got.ID, err)
	}
}
