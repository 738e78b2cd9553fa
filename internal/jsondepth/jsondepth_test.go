package jsondepth

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestExceeds(t *testing.T) {
	for text, depth := range map[string]int{
		`1`: 0, `"[[["`: 0, `"\"[[["`: 0, `[]`: 1, `{"a":[{}],"b":{}}`: 3, `["\\",[]]`: 2, strings.Repeat("[", 5000) + strings.Repeat("]", 5000): 5000,
		`[[],[],[]]`: 2,
	} {
		if !json.Valid([]byte(text)) {
			t.Fatalf("%.40s", text)
		}
		if Exceeds([]byte(text), depth) || depth > 0 && !Exceeds([]byte(text), depth-1) {
			t.Errorf("%.40s does not nest %d deep", text, depth)
		}
	}
}
