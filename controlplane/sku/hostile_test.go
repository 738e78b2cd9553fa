package sku

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Neither a costly expression nor what an agent says of its hardware takes more than
// a moment.
func TestCostlyRules(t *testing.T) {
	if _, err := Compile([]Rule{{Path: "a", Regex: strings.Repeat("(.*){999}", 20)}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "repeat less") {
		t.Errorf("%v", err)
	}
	rules, err := Compile([]Rule{{Path: "system.serial", Regex: "(.*){300}x"}, {Path: "disks.*.*", NotRegex: "y(.*){300}x"}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if rules.Match(map[string]any{"system": map[string]any{"serial": strings.Repeat("a", 4<<20)}}) {
		t.Error("it matches")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%v", took)
	}
}
