package pattern

import (
	"strings"
	"testing"
	"time"
)

func TestCompile(t *testing.T) {
	for text, want := range map[string]string{
		"^CPU[0-9]+ Temp$": "", `(?i)power supply.*fail`: "", `\pL{1,64}`: "", "x{1000}": "",
		"((":                            "missing",
		strings.Repeat("x", 501):        "longer than 500",
		"(a{100}){100}":                 "repeat",
		strings.Repeat("(.*){9}", 60):   "repeat less",
		strings.Repeat("(.*){999}", 40): "repeat less",
	} {
		if _, err := Compile(text, 500); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// The costliest expression that is taken, on the longest text.
func TestCost(t *testing.T) {
	p, err := Compile("(.*){400}x", 500)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if p.Match(strings.Repeat("a", 1<<20) + "x") {
		t.Error("it looks at more than it should")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%v", took)
	}
	if !p.Match("aax") {
		t.Error("no match")
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("a+(b|c){3}", "aabcb")
	f.Add("(.*){9}(?:x?){20}", "\xff\xfe")
	f.Fuzz(func(t *testing.T, text, subject string) {
		if p, err := Compile(text, 200); err == nil {
			p.Match(subject)
		}
	})
}
