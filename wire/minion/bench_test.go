package minion

import (
	"bytes"
	"strings"
	"testing"
)

func benchFrame(b *testing.B) []byte {
	f := LogLine(mustID(b), "chassis", "11111111-2222-3333-4444-555555555555", "kernel", strings.Repeat("x", 84))
	raw, err := f.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

func BenchmarkScan(b *testing.B) {
	raw := benchFrame(b)
	var v View
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if err := Scan(raw[prefix:], &v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := benchFrame(b)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := Parse(raw[prefix:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	f, err := Parse(benchFrame(b)[prefix:])
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 512)
	b.SetBytes(int64(f.Size() + prefix))
	for b.Loop() {
		if _, err := f.Append(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	raw := bytes.Repeat(benchFrame(b), 1000)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		r := NewReader(bytes.NewReader(raw))
		for range 1000 {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkGenerator(b *testing.B) {
	g := NewGenerator(RandomNode())
	for b.Loop() {
		g.Next()
	}
}
