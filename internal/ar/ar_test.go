package ar

import (
	"fmt"
	"strings"
	"testing"
)

func header(name, size, end string) (h [HeaderLen]byte) {
	copy(h[:], fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10s%s", name, 0, 0, 0, "100644", size, end))
	return h
}

func TestHeader(t *testing.T) {
	for _, tt := range []struct {
		h    [HeaderLen]byte
		name string
		size int64
		err  string
	}{
		{header("debian-binary", "4", "`\n"), "debian-binary", 4, ""},
		{header("data.tar.xz/", "9999999999", "`\n"), "data.tar.xz", 9999999999, ""},
		{header("a", "4", "\n`"), "", 0, "bad ar header"},
		{header("a", "-4", "`\n"), "", 0, "size"},
		{header("a", "", "`\n"), "", 0, "size"},
		{[HeaderLen]byte{}, "", 0, "bad ar header"},
	} {
		name, size, err := Header(tt.h)
		if name != tt.name || size != tt.size || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %d, %v", tt.h, name, size, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	h := header("data.tar.xz/", "123", "`\n")
	f.Add(h[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h [HeaderLen]byte
		copy(h[:], b)
		if name, size, err := Header(h); err == nil && (size < 0 || len(name) > 16) {
			t.Errorf("%q, %d", name, size)
		}
	})
}
