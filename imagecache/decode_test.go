package imagecache

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/therootcompany/xz"
)

// A file that breaks off is never taken for a whole one, whichever byte is the
// last; neither is one with a byte changed, where the format has a checksum.
func TestDecodeTruncated(t *testing.T) {
	raw := random(1, 64<<10)
	for f, file := range map[Format][]byte{
		RawGzip: gz(t, raw), RawZstd: run(t, raw, "zstd", "-c", "--check"), RawXZ: run(t, raw, "xz", "-c"),
	} {
		read := func(b []byte) error {
			z, err := decoder(f, iotest.HalfReader(bytes.NewReader(b)))
			if err != nil {
				return err
			}
			defer z.Close()
			got, err := io.ReadAll(z)
			if err == nil && !bytes.Equal(got, raw) {
				t.Errorf("%s: %d bytes decode to something else", f, len(b))
			}
			return err
		}
		if err := read(file); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		for n := 1; n < len(file); n += max(1, len(file)/150) {
			if err := read(file[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes: no error", f, n, len(file))
			}
		}
		for n := len(file) / 3; n < len(file)-1; n += len(file) / 20 {
			b := bytes.Clone(file)
			b[n] ^= 0x10
			if err := read(b); err == nil {
				t.Errorf("%s: byte %d changed: no error", f, n)
			}
		}
	}
}

func TestDecodeXZMemory(t *testing.T) {
	z, err := decoder(RawXZ, bytes.NewReader(run(t, make([]byte, 1000), "xz", "-9", "-c")))
	if err == nil {
		_, err = io.ReadAll(z)
	}
	if !errors.Is(err, xz.ErrMemlimit) || !strings.Contains(err.Error(), "xz -8") {
		t.Errorf("error: %v", err)
	}
	z, err = decoder(RawXZ, bytes.NewReader(run(t, make([]byte, 1000), "xz", "-8", "-c")))
	if err == nil {
		_, err = io.ReadAll(z)
	}
	if err != nil {
		t.Errorf("xz -8: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	text := bytes.Repeat([]byte("some text, "), 50)
	f.Add(uint8(0), gz(f, text))
	f.Add(uint8(1), zst(f, text))
	f.Add(uint8(2), run(f, text, "xz", "-c"))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		z, err := decoder([]Format{RawGzip, RawZstd, RawXZ}[which%3], bytes.NewReader(b))
		if err != nil {
			return
		}
		defer z.Close()
		if _, err := io.CopyN(io.Discard, z, 4*mib); err != nil && err != io.EOF && err.Error() == "" {
			t.Fatal("error without words")
		}
	})
}
