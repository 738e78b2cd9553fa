package bus

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"strings"
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

func filtered(t testing.TB, in []byte, slow bool) ([]byte, error) {
	t.Helper()
	h := newHeadless(stream{Reader: bytes.NewReader(in)})
	if slow {
		h = newHeadless(stream{Reader: iotest.OneByteReader(bytes.NewReader(in))})
		return io.ReadAll(iotest.OneByteReader(h))
	}
	return io.ReadAll(h)
}

func TestHeadless(t *testing.T) {
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
			if got, err := filtered(t, c.in, slow); err != nil && c.name != "cut off" || !bytes.Equal(got, c.want) {
				t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
			}
		}
	}
	huge := frame(2, nil)
	binary.BigEndian.PutUint32(huge[3:], maxHeader+1)
	if _, err := filtered(t, huge, false); err == nil {
		t.Error("a header frame without bound is taken")
	}
}

// FuzzHeadless holds that the filter gives the same however the bytes come in, and
// that what it lets through it does not change again.
func FuzzHeadless(f *testing.F) {
	f.Add(frame(2, properties(contentType|headers|1<<12, "\x02ct\x00\x00\x00\x03\x01aV\x02")))
	f.Add(append(frame(1, []byte("m")), frame(2, properties(headers, "\x00\x00\x00\x00"))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, _ := filtered(t, in, false)
		if len(once) > len(in) {
			t.Fatalf("%d bytes of %d", len(once), len(in))
		}
		if slow, _ := filtered(t, in, true); !bytes.Equal(once, slow) {
			t.Fatalf("%q, slowly %q", once, slow)
		}
		if twice, _ := filtered(t, once, false); !bytes.Equal(once, twice) {
			t.Fatalf("%q, then %q", once, twice)
		}
	})
}

func TestSendable(t *testing.T) {
	address := func(process string) string {
		return directReply + "." + base64.StdEncoding.EncodeToString([]byte(process)) + ".a2V5"
	}
	for replyTo, want := range map[string]bool{
		"": true, "a queue": true, directReply: true, directReply + ".nobody": true,
		address("\x83Xw\x03r@1" + strings.Repeat("n", 12)):     true,
		address("\x83gd\x00\x03r@1" + strings.Repeat("n", 9)):  true,
		address("\x83Xv\x00\x03r@1" + strings.Repeat("n", 12)): true,
		address("\x83Xw\x03r@1" + strings.Repeat("n", 11)):     false,
		address("\x83gw\x03r@1" + strings.Repeat("n", 12)):     false,
		address("\x83Xw\xffr@1"):                               false,
		address("\x83j"):                                       false,
		address(""):                                            false,
		directReply + ".!.a2V5":                                false,
		directReply + ".a2V5.!":                                false,
	} {
		if got := sendable(replyTo); got != want {
			t.Errorf("sendable(%q) = %v", replyTo, got)
		}
	}
}
