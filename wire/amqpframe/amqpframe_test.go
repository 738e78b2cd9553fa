package amqpframe

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

// frame is a frame of AMQP.
func frame(typ byte, payload []byte) []byte {
	f := []byte{typ, 0, 5, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(f[3:], uint32(len(payload)))
	return append(append(f, payload...), 0xCE)
}

// properties is the payload of a header frame.
func properties(flags uint16, rest string) []byte {
	p := []byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0}
	binary.BigEndian.PutUint16(p[atFlags:], flags)
	return append(p, rest...)
}

type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func filtered(t testing.TB, in []byte, maxBody uint64, slow bool) ([]byte, error) {
	t.Helper()
	h := Filter(stream{Reader: bytes.NewReader(in)}, maxBody, nil)
	if slow {
		h = Filter(stream{Reader: iotest.OneByteReader(bytes.NewReader(in))}, maxBody, nil)
		return io.ReadAll(iotest.OneByteReader(h))
	}
	return io.ReadAll(h)
}

func TestHeaders(t *testing.T) {
	const table = "\x00\x00\x00\x06\x01aI\x00\x00\x00"
	for _, c := range []struct {
		name     string
		in, want []byte
	}{
		{"none", nil, nil},
		{"no properties", frame(2, properties(0, "")), frame(2, properties(0, ""))},
		{"no headers", frame(2, properties(contentType|1<<12, "\x01x\x02")), frame(2, properties(contentType|1<<12, "\x01x\x02"))},
		{"headers alone", frame(2, properties(headers, table)), frame(2, properties(0, ""))},
		{"among others", frame(2, properties(contentType|contentEncoding|headers|1<<12, "\x02ct\x01e"+table+"\x02")),
			frame(2, properties(contentType|contentEncoding|1<<12, "\x02ct\x01e\x02"))},
		{"a body like headers", frame(3, properties(headers, table)), frame(3, properties(headers, table))},
		{"more flags", frame(2, properties(headers|moreFlags, table)), frame(2, properties(headers|moreFlags, table))},
		{"headers longer than the frame", frame(2, properties(headers, "\xff\xff\xff\xff")), frame(2, properties(headers, "\xff\xff\xff\xff"))},
		{"text longer than the frame", frame(2, properties(contentType|headers, "\xffx")), frame(2, properties(contentType|headers, "\xffx"))},
		{"nothing behind the flags", frame(2, properties(contentType|contentEncoding|headers, "")), frame(2, properties(contentType|contentEncoding|headers, ""))},
		{"short", frame(2, []byte("short")), frame(2, []byte("short"))},
		{"frames", append(frame(1, []byte("method")), append(frame(2, properties(headers, table)), frame(3, []byte("body"))...)...),
			append(frame(1, []byte("method")), append(frame(2, properties(0, "")), frame(3, []byte("body"))...)...)},
		{"another protocol", []byte("AMQP\x00\x01\x00\x00"), []byte("AMQP\x00\x01\x00\x00")},
		{"cut off", []byte("AMQP"), []byte("AMQP")},
	} {
		for _, slow := range []bool{false, true} {
			if got, err := filtered(t, c.in, 0, slow); err != nil && c.name != "cut off" || !bytes.Equal(got, c.want) {
				t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
			}
		}
	}
	huge := frame(2, nil)
	binary.BigEndian.PutUint32(huge[3:], maxHeader+1)
	if _, err := filtered(t, huge, 0, false); err == nil {
		t.Error("a header frame without bound is taken")
	}
}

// FuzzFilter holds that the filter gives the same however the bytes come in, and
// that what it lets through it does not change again.
func FuzzFilter(f *testing.F) {
	f.Add(frame(2, properties(contentType|headers|1<<12, "\x02ct\x00\x00\x00\x03\x01aV\x02")))
	f.Add(append(frame(1, []byte("m")), frame(2, properties(headers, "\x00\x00\x00\x00"))...))
	f.Add(append(frame(2, sized(200)), frame(3, make([]byte, 150))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, _ := filtered(t, in, 100, false)
		if len(once) > len(in) {
			t.Fatalf("%d bytes of %d", len(once), len(in))
		}
		if slow, _ := filtered(t, in, 100, true); !bytes.Equal(once, slow) {
			t.Fatalf("%q, slowly %q", once, slow)
		}
		if twice, _ := filtered(t, once, 100, false); !bytes.Equal(once, twice) {
			t.Fatalf("%q, then %q", once, twice)
		}
	})
}

// sized is properties of a message with a body of so many bytes.
func sized(body uint64) []byte {
	p := properties(0, "")
	binary.BigEndian.PutUint64(p[atBodySize:], body)
	return p
}

func on(channel byte, frame []byte) []byte {
	frame[2] = channel
	return frame
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestBodies(t *testing.T) {
	ten, half := []byte("0123456789"), []byte("01234")
	for _, c := range []struct {
		name     string
		in, want []byte
		oversize uint64
	}{
		{"as long as it may be", join(frame(2, sized(10)), frame(3, ten)), join(frame(2, sized(10)), frame(3, ten)), 0},
		{"too long", join(frame(2, sized(11)), frame(3, ten), frame(3, ten[:1]), frame(1, half)), join(frame(2, sized(0)), frame(1, half)), 11},
		{"others between", join(on(1, frame(2, sized(15))), on(1, frame(3, ten)), on(2, frame(3, ten)), on(1, frame(3, half)), on(1, frame(2, sized(5))), on(1, frame(3, half))),
			join(on(1, frame(2, sized(0))), on(2, frame(3, ten)), on(1, frame(2, sized(5))), on(1, frame(3, half))), 15},
		{"a message that breaks off", join(frame(2, sized(1<<63)), frame(3, ten), frame(1, half), frame(2, sized(5)), frame(3, half)),
			join(frame(2, sized(0)), frame(1, half), frame(2, sized(5)), frame(3, half)), 1 << 63},
		{"more than was announced", join(frame(2, sized(12)), frame(3, ten), frame(3, ten)), join(frame(2, sized(0)), frame(3, ten)), 12},
	} {
		var told uint64
		f := Filter(stream{Reader: bytes.NewReader(c.in)}, 10, func(n uint64) { told = n })
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, c.want) || told != c.oversize {
			t.Errorf("%s: %q, %v, told of %d; want %q, %d", c.name, got, err, told, c.want, c.oversize)
		}
		if got, err := filtered(t, c.in, 10, true); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s, slowly: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
