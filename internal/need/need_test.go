package need

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// outcome is what a call does to the test that makes it.
type outcome struct {
	testing.TB
	said string
}

func (o *outcome) Helper()                   {}
func (o *outcome) Skip(args ...any)          { o.end("skip: " + fmt.Sprint(args...)) }
func (o *outcome) Skipf(f string, a ...any)  { o.end("skip: " + fmt.Sprintf(f, a...)) }
func (o *outcome) Fatal(args ...any)         { o.end("fail: " + fmt.Sprint(args...)) }
func (o *outcome) Fatalf(f string, a ...any) { o.end("fail: " + fmt.Sprintf(f, a...)) }
func (o *outcome) end(said string)           { o.said = said; panic(o) }

func of(call func(testing.TB)) (said string) {
	o := &outcome{}
	defer func() {
		if p := recover(); p != nil && p != any(o) {
			panic(p)
		}
		said = o.said
	}()
	call(o)
	return
}

func TestMissing(t *testing.T) {
	for name, call := range map[string]func(testing.TB){
		"program":   func(t testing.TB) { Program(t, "no-such-program", "p") },
		"path":      func(t testing.TB) { Program(t, "/no/such/program", "p") },
		"file":      func(t testing.TB) { File(t, "/no/such/file", "p") },
		"installed": func(t testing.TB) { Installed(t, errors.New("no module x"), "p") },
	} {
		t.Setenv(Environment, "")
		if said := of(call); !strings.HasPrefix(said, "skip: ") {
			t.Errorf("%s: %q", name, said)
		}
		t.Setenv(Environment, "1")
		if said := of(call); !strings.HasPrefix(said, "fail: ") {
			t.Errorf("%s, after setup: %q", name, said)
		}
	}
}

func TestPresent(t *testing.T) {
	t.Setenv(Environment, "1")
	if said := of(func(t testing.TB) {
		if path := Program(t, "sh", "dash"); !strings.HasSuffix(path, "/sh") {
			t.Fatal(path)
		}
		File(t, "/", "base-files")
		Installed(t, nil, "p")
		Right(t, nil)
	}); said != "" {
		t.Error(said)
	}
}

func TestRight(t *testing.T) {
	t.Setenv(Environment, "1")
	want := "skip: "
	if os.Geteuid() == 0 {
		want = "fail: "
	}
	if said := of(func(t testing.TB) { Right(t, errors.New("no")) }); !strings.HasPrefix(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}
