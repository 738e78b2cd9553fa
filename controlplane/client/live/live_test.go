package live

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	var out bytes.Buffer
	v := New(&out)
	left := 90 * time.Second
	v.Show([]Task{{ID: "1", Title: "erase", State: "running", Percent: 12, ETA: &left, Step: "zeroing"}})
	v.Show([]Task{{ID: "1", Title: "erase", State: "running", Percent: 13, ETA: &left, Step: "zeroing"}})
	v.Show([]Task{{ID: "1", Title: "erase", State: "running", Percent: 20}})
	v.Show([]Task{{ID: "1", Title: "erase", State: "error", Percent: 20, Msg: "bad\x1b[2Jdisk\n", Final: true}})
	want := "erase            running    12 %, 1m30s left, zeroing\n" +
		"erase            running    20 %\n" +
		"erase            error      20 %: bad [2Jdisk \n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestBars(t *testing.T) {
	var out bytes.Buffer
	v := New(&out)
	v.width = 60
	v.Show([]Task{{ID: "1", Title: "erase", State: "running", Percent: 50, Msg: strings.Repeat("long ", 50)}, {ID: "2", Title: "qc", State: "pending"}})
	for line := range strings.Lines(out.String()) {
		if len(line) > 60 {
			t.Errorf("line is wider than the terminal: %q", line)
		}
	}
	if !strings.Contains(out.String(), "[#####.....]  50 %") {
		t.Errorf("no bar at half: %q", out.String())
	}
	out.Reset()
	v.Say("hello")
	if out.String() != "\x1b[2A\x1b[Jhello\n" {
		t.Errorf("bars were not cleared: %q", out.String())
	}
}
