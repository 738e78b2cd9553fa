package definition

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Definitions that are made to cost: each is read, or refused with a reason, at once.
func TestCostlyDefinitions(t *testing.T) {
	graph := func(rest string) string {
		return "injectableName: Graph.X\ntasks: [{label: a, taskName: Task.A}]\n" + rest
	}
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		c, d := string(rune('b'+i)), string(rune('a'+i))
		laughs += fmt.Sprintf("%s: &%s [*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s]\n", c, c, d, d, d, d, d, d, d, d)
	}
	fill := func(part string) string { return strings.Repeat(part, (MaxSize-200)/len(part)) }
	doubling := "options:\n  a:\n"
	for i := range 60 {
		doubling += fmt.Sprintf("    x%d: '{{ options.x%d }}{{ options.x%d }}'\n", i, i+1, i+1)
	}
	for name, text := range map[string]string{
		"laughs":          laughs,
		"merge":           "a: &a {x: 1}\nb: {<<: *a}\n",
		"flow nesting":    "a: " + fill("["),
		"flow maps":       "a: " + fill("{a: "),
		"block nesting":   fill("- "),
		"block maps":      fill("a:\n "),
		"questions":       fill("? "),
		"keys":            fill("a: b\n"),
		"commas":          "[" + fill("a,") + "]",
		"comments":        fill("#\n"),
		"comments inside": "a: [" + fill("#c\n ") + "1]",
		"anchors":         fill("- &a a\n"),
		"tags":            fill("- !!binary x\n"),
		"documents":       fill("---\n"),
		"quotes":          `a: "` + fill(`\x41`) + `"`,
		"folded":          "a: >\n" + fill("  x\n\n"),
		"spaces":          "a:" + fill(" ") + "b",
		"tabs":            fill("\t"),
		"long key":        fill("k") + ": 1",
		"directives":      fill("%TAG ! x\n"),
		"digits":          "a: " + fill("9"),
		"float":           "a: 1e" + fill("9"),
		"braces":          graph("options: {a: {x: '" + fill("{{ ") + "'}}"),
		"templates":       graph("options: {a: {x: '" + fill("{{ options.y }}") + "'}}"),
		"doubling":        graph(doubling),
		"many tasks":      "injectableName: Graph.X\ntasks:\n" + fill("- {label: a, taskName: Task.A}\n"),
		"only comments":   "# nothing",
		"null":            "---\n",
		"byte order mark": "\ufeff" + graph(""),
		"nulls":           fill("\x00"),
		"sixteen":         "\xff\xfea\x00:\x00",
	} {
		began := time.Now()
		g, err := ParseGraph([]byte(text))
		_, err2 := ParseTask([]byte(text))
		_, _, err3 := Kind([]byte(text))
		if err == nil {
			_, err = Library{}.Resolve(g, nil, func(string) bool { return true })
		}
		// Far above what a busy machine needs, far below what a costly one would take.
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: %v", name, took)
		}
		for _, e := range []error{err, err2, err3} {
			if e != nil && len(e.Error()) > 1000 {
				t.Errorf("%s: the error has %d bytes: %.300v", name, len(e.Error()), e)
			}
		}
		if err == nil && name != "byte order mark" {
			t.Errorf("%s is taken", name)
		}
	}
}
