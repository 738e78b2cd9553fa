package bls

import (
	"reflect"
	"testing"
	"testing/fstest"
)

func TestParse(t *testing.T) {
	got := Parse("ab+3-1.conf", []byte("# comment\ntitle  A  b \nversion\t1\nmachine-id m\nsort-key s\nlinux /k\ninitrd /a\ninitrd /b\noptions x\noptions y z\nunknown q\nlinux\n"))
	want := Entry{ID: "ab", Title: "A  b", Version: "1", MachineID: "m", SortKey: "s", Linux: "/k",
		Initrds: []string{"/a", "/b"}, Options: []string{"x", "y z"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Parse: %+v\nexpected %+v", got, want)
	}
	for name, want := range map[string]Entry{
		"a+0.conf": {ID: "a", Bad: true}, "a+0-9.conf": {ID: "a", Bad: true}, "a+2.conf": {ID: "a"},
		"a+b.conf": {ID: "a+b"}, "+1.conf": {ID: "+1"}, "a+1-x.conf": {ID: "a+1-x"},
	} {
		if got := Parse(name, nil); !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q): %+v, expected %+v", name, got, want)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	// The examples of the UAPI version format specification, and what distributions use.
	for _, pair := range [][2]string{
		{"", "0"}, {"~1", ""}, {"0_", "1"}, {"1~rc1", "1"}, {"1", "1.0"}, {"9", "10"}, {"1-1", "1-2"}, {"122.1", "123~rc1-1"},
		{"123~rc1-1", "123"}, {"123", "123-a"}, {"123-a", "123-a.1"}, {"123-a.1", "123-1"}, {"123-1", "123-1.1"}, {"123-1.1", "123^post1"},
		{"123^post1", "123.a-1"}, {"123.a-1", "123.1-1"}, {"123.1-1", "123a-1"}, {"123a-1", "124-1"}, {"B", "a"}, {"a", "1"},
		{"id-0-rescue", "id-6.9.12-200.fc40"}, {"id-6.9.12-200.fc40", "id-6.10.3-200.fc40"},
		{"5.14.0-427.13.1.el9_4", "5.14.0-503.11.1.el9_5"}, {"1.99999999999999999999998", "1.99999999999999999999999"},
	} {
		if a, b := CompareVersions(pair[0], pair[1]), CompareVersions(pair[1], pair[0]); a != -1 || b != 1 {
			t.Errorf("%q and %q compare %d and %d", pair[0], pair[1], a, b)
		}
	}
	for _, pair := range [][2]string{{"", ""}, {"1", "01"}, {"a b", "a+b"}, {"1.0", "1.0"}, {"ü1", "1"}} {
		if c := CompareVersions(pair[0], pair[1]); c != 0 {
			t.Errorf("%q and %q compare %d", pair[0], pair[1], c)
		}
	}
}

func TestReadDir(t *testing.T) {
	m := fstest.MapFS{
		"e/a.conf": {Data: []byte("linux /a")}, "e/.b.conf": {}, "e/c.txt": {}, "e/d.conf": {Data: make([]byte, maxEntry+1)},
	}
	entries, skipped, err := ReadDir(m, "e")
	if err != nil || len(entries) != 1 || entries[0].Linux != "/a" || len(skipped) != 1 {
		t.Errorf("ReadDir: %+v, %v, %v", entries, skipped, err)
	}
	if _, _, err := ReadDir(m, "f"); err == nil {
		t.Error("read a directory that does not exist")
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.2~rc1-3", "1.2^post", "ab.1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, bc := CompareVersions(a, b), CompareVersions(b, c)
		if ab != -CompareVersions(b, a) {
			t.Errorf("%q and %q are not antisymmetric", a, b)
		}
		if ab <= 0 && bc <= 0 && CompareVersions(a, c) > 0 {
			t.Errorf("%q, %q, %q are not transitive", a, b, c)
		}
	})
}
