package lastwords

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The end of a process can only be seen from outside: the test runs itself.
func TestMain(m *testing.M) {
	if f := children[os.Getenv("TEETH_TEST_CHILD")]; f != nil {
		f()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func file(ctx context.Context, text string) {
	if _, ok := ctx.Deadline(); ok {
		_ = os.WriteFile(os.Getenv("TEETH_TEST_FILE"), []byte(text), 0o600)
	}
}

var children = map[string]func(){
	"goroutine": func() {
		Add(file)
		Go("the worker", func() {
			var none []int
			_ = none[len(os.Args)]
		})
		select {}
	},
	"main": func() {
		Add(file)
		defer Recover("main")
		panic(errors.New("from main"))
	},
	"return": func() {
		Add(file)
		defer Recover("main")
	},
	"sink panics": func() {
		Add(func(context.Context, string) { panic("sink") })
		Add(file)
		Say("the cause")
	},
	"plan": func() {
		Set(Plan{
			Print: func(s string) { os.Stdout.WriteString("printed " + s) },
			Delay: 300 * time.Millisecond,
			End:   func() { os.Exit(42) },
		})
		go Say("second") // waits for the end like the first, or is the first
		Say("second")
	},
	"long": func() { Say(strings.Repeat("x", 1<<20)) },
}

func TestLastWords(t *testing.T) {
	tests := []struct {
		child  string
		status int
		words  []string // all on standard output or error
		sink   string   // in the file
	}{
		{"goroutine", 1, []string{"panic in the worker", "index out of range", "lastwords_test.go"}, "index out of range"},
		{"main", 1, []string{"panic in main: from main"}, "from main"},
		{"return", 0, nil, ""},
		{"sink panics", 1, []string{"the cause"}, "the cause"},
		{"plan", 42, []string{"printed second"}, ""},
		{"long", 1, []string{"(cut)"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.child, func(t *testing.T) {
			path := t.TempDir() + "/words"
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "TEETH_TEST_CHILD="+tt.child, "TEETH_TEST_FILE="+path)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			began := time.Now()
			err := cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("exit status %d (%v), want %d: %.500s", got, err, tt.status, out.String())
			}
			for _, w := range tt.words {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q in %.500s", w, out.String())
				}
			}
			if got, _ := os.ReadFile(path); !strings.Contains(string(got), tt.sink) || (tt.sink == "") != (len(got) == 0) {
				t.Errorf("sink got %q, want %q", got, tt.sink)
			}
			if tt.child == "plan" && (time.Since(began) < 300*time.Millisecond || strings.Count(out.String(), "printed") != 1) {
				t.Errorf("after %s: %s", time.Since(began), out.String())
			}
			if out.Len() > maxText+1000 {
				t.Errorf("%d bytes of last words", out.Len())
			}
		})
	}
}
