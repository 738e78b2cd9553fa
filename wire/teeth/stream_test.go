package teeth

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadLine(t *testing.T) {
	max := strings.Repeat("x", MaxLine)
	in := "a\r\n\n  \t\n b c \n" + strings.Repeat("y", 4096) + "\n" + max + "\nlast\n"
	want := []string{"a", "", "", "b c", strings.Repeat("y", 4096), max, "last"}
	for name, r := range map[string]io.Reader{
		"whole":       strings.NewReader(in),
		"in halves":   iotest.HalfReader(strings.NewReader(in)),
		"with errors": iotest.DataErrReader(strings.NewReader(in)),
	} {
		lr := NewReader(r)
		for i, w := range want {
			if got, err := lr.ReadLine(); err != nil || string(got) != w {
				t.Fatalf("%s: line %d: %.20q (%d bytes), %v", name, i, got, len(got), err)
			}
		}
		if _, err := lr.ReadLine(); err != io.EOF {
			t.Errorf("%s: end: %v", name, err)
		}
	}
}

func TestReadLineErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		in   io.Reader
		want error
	}{
		"one byte too long":    {strings.NewReader(strings.Repeat("x", MaxLine+1) + "\n"), ErrLineTooLong},
		"too long without end": {io.MultiReader(strings.NewReader(strings.Repeat("x", MaxLine+4096)), neverRead{t}), ErrLineTooLong},
		"cut":                  {strings.NewReader("abc"), io.ErrUnexpectedEOF},
		"empty":                {strings.NewReader(""), io.EOF},
	} {
		if line, err := NewReader(tt.in).ReadLine(); err != tt.want {
			t.Errorf("%s: %.20q, %v, want %v", name, line, err, tt.want)
		}
	}
}

// neverRead stands for a peer that would send for ever.
type neverRead struct{ t *testing.T }

func (n neverRead) Read(p []byte) (int, error) {
	n.t.Error("read on after the line was too long")
	return 0, io.EOF
}

func TestWriteMessage(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	if err := w.WriteMessage(NewFatal("a")); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteMessage(NewFatal(strings.Repeat("x", MaxLine))); !errors.Is(err, ErrLineTooLong) {
		t.Errorf("too long: %v", err)
	}
	if err := w.WriteMessage(NewFatal("b")); err != nil {
		t.Fatal(err)
	}
	if want := "{\"fatal_error\": \"a\"}\n{\"fatal_error\": \"b\"}\n"; buf.String() != want {
		t.Errorf("%q, want %q", buf.String(), want)
	}
}

func BenchmarkParse(b *testing.B) {
	line := []byte(`{"id": "0f8fad5b-d9cb-469f-a165-70867728950e", "version": "v1", "method": "task_status", "params": {"task_id": "t-1", "state": "running", "eta": 31.5, "percent": 42, "step": "verify", "seq": 3}}`)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}
