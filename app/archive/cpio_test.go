package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unpackCPIO unpacks an archive as if it were in an rpm.
func unpackCPIO(t testing.TB, s string) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	a := &Reader{ctx: t.Context(), max: wide}
	c := &cpio{r: bufio.NewReader(strings.NewReader(s)), links: map[cpioFile]*cpioLinks{}, special: &a.Special}
	a.next, a.data = c.next, c
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, err = a.Unpack(root)
	return dir, err
}

func TestCPIO(t *testing.T) {
	end := newc(cpioTrailer, 0, 0, 1, "")
	for _, c := range []struct{ name, archive, want string }{
		{"plain", newc("./a", 1, 0o100640, 1, "abc") + newc("/d", 2, 0o040700, 2, "") + newc("l", 3, 0o120777, 1, "a"),
			"-rw-r----- a \"abc\"\ndrwx------ d\nLrwxrwxrwx l -> a\n"},
		{"hard links with the contents last", newc("a", 7, 0o100644, 3, "") + newc("b", 7, 0o100644, 3, "") + newc("c", 7, 0o100644, 3, "x"),
			"-rw-r--r-- a \"x\"\n-rw-r--r-- b \"x\"\n-rw-r--r-- c \"x\"\n"},
		{"hard links with the contents first", newc("a", 7, 0o100644, 2, "x") + newc("b", 7, 0o100644, 2, ""),
			"-rw-r--r-- a \"x\"\n-rw-r--r-- b \"x\"\n"},
		{"hard links without contents", newc("a", 7, 0o100644, 2, "") + newc("b", 7, 0o100644, 2, ""),
			"-rw-r--r-- a \"\"\n-rw-r--r-- b \"\"\n"},
		{"some of the links only", newc("a", 7, 0o100644, 9, "x"), "-rw-r--r-- a \"x\"\n"},
		{"special files", newc("dev", 1, 0o060600, 1, "") + newc("pipe", 2, 0o010600, 1, "ignored") + newc("a", 3, 0o100600, 1, "x"), "-rw------- a \"x\"\n"},
	} {
		dir, err := unpackCPIO(t, c.archive+end)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := list(t, dir); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
	for _, c := range []struct{ name, archive string }{
		{"no end", newc("a", 1, 0o100644, 1, "x")},
		{"bad magic", "070707" + strings.Repeat("0", 200)},
		{"bad number", "070701" + strings.Repeat("x", 200)},
		{"huge name", "070701" + strings.Repeat("0", 88) + "ffffffff" + strings.Repeat("0", 200)},
		{"no name", "070701" + strings.Repeat("0", 300)},
		{"cut contents", newc("a", 1, 0o100644, 1, "x")[:100]},
		{"two contents of one file", newc("a", 7, 0o100644, 2, "x") + newc("b", 7, 0o100644, 2, "y") + end},
		{"parent", newc("../a", 1, 0o100644, 1, "x") + end},
		{"empty link", newc("a", 1, 0o120777, 1, "") + end},
		{"long link", newc("a", 1, 0o120777, 1, strings.Repeat("x", maxName+1)) + end},
	} {
		if _, err := unpackCPIO(t, c.archive); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// endless is an archive of hard links to files whose contents never come.
type endless struct {
	n    uint32
	rest string
}

func (e *endless) Read(b []byte) (int, error) {
	if e.rest == "" {
		e.n++
		e.rest = newc(strings.Repeat("x", 200)+"/"+strings.Repeat("y", 200), int(e.n), 0o100644, 2, "")
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// A small package, compressed well, must not make the agent keep names without end.
func TestLinksWithoutEnd(t *testing.T) {
	a := &Reader{ctx: t.Context(), max: wide}
	in := &endless{}
	c := &cpio{r: bufio.NewReader(io.LimitReader(in, 1<<30)), links: map[cpioFile]*cpioLinks{}, special: &a.Special}
	if _, err := c.next(); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if in.n > 100_000 {
		t.Errorf("%d names were kept", in.n)
	}
}

// sealed fails the test when something was written beside dir.
func sealed(t *testing.T, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Dir(dir) + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if len(filepath.Base(f)) != 3 { // the directories of t.TempDir
			t.Fatalf("%s is outside", f)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	b := tarOf(f, dir("d", 0o755), file("d/x", "hello"), symlink("l", "../.."), link("h", "d/x"), file("l/y", "z"))
	f.Add(b)
	f.Add(gz(f, b))
	f.Add(zst(f, b))
	f.Add(debOf(f, b))
	f.Add(debOf(f, gz(f, b)))
	f.Add(build(f, "w9.gzdio"))
	f.Add(build(f, "w2.xzdio"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, _, _ := unpack(t, b, Bounds{Bytes: 1 << 20, Entries: 50})
		sealed(t, dir)
	})
}

func FuzzCPIO(f *testing.F) {
	f.Add(newc("a", 1, 0o100644, 1, "abc") + newc("b/c", 2, 0o120777, 1, "../../x") + newc("b/c/d", 4, 0o100644, 1, "x") +
		newc("d", 3, 0o100644, 2, "") + newc("e", 3, 0o100644, 2, "x") + newc(cpioTrailer, 0, 0, 1, ""))
	f.Fuzz(func(t *testing.T, s string) {
		dir, _ := unpackCPIO(t, s)
		sealed(t, dir)
	})
}

func FuzzRPMHeader(f *testing.F) {
	f.Add(header(tagName, rpmString, 1, "x\x00", tagEpoch, rpmInt32, 1, "\x00\x00\x00\x01", sigMD5, rpmBin, 16, "0123456789abcdef"), uint32(tagName))
	f.Fuzz(func(t *testing.T, b []byte, tag uint32) {
		h, err := readRPMHeader(bytes.NewReader(b), 0, int64(len(b)))
		if err != nil {
			return
		}
		h.number(tag)
		if len(h.bytes(tag)) > len(b) || len(h.text(tag)) > len(b) {
			t.Error("more than there is")
		}
		a := &Reader{}
		a.describe(h)
		_, _ = io.WriteString(io.Discard, a.GoArch())
	})
}
