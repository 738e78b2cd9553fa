package imagecache

import (
	"bytes"
	"testing"
)

// The digest depends on the bytes only, not on the portions they came in.
func TestContents(t *testing.T) {
	raw := sparse(1, 5*mib+12345)
	digest := func(b []byte, step int) []byte {
		c := newContents()
		for len(b) > 0 {
			n := min(step, len(b))
			if step%3 == 0 && isZero(b[:n]) {
				c.zero(int64(n))
			} else {
				c.Write(b[:n])
			}
			b = b[n:]
		}
		return c.finish()
	}
	want := digest(raw, len(raw))
	for _, step := range []int{512, 3 * 512, 65536, 3 * 65536, 3*mib + 3, 2 * mib} {
		if !bytes.Equal(digest(raw, step), want) {
			t.Errorf("portions of %d bytes give another digest", step)
		}
	}
	for _, at := range []int{0, 2 * mib, len(raw) - 1} { // data, hole, last byte
		b := bytes.Clone(raw)
		b[at] ^= 1
		if bytes.Equal(digest(b, 65536), want) {
			t.Errorf("a change at %d is not seen", at)
		}
	}
	if bytes.Equal(digest(make([]byte, 65536), 65536), digest(make([]byte, 65536*2), 65536)) {
		t.Error("the length is not seen")
	}
	c := newContents()
	c.zero(200<<30 + 512)
	long := c.finish()
	c = newContents()
	c.zero(512)
	c.zero(200 << 30)
	if !bytes.Equal(long, c.finish()) {
		t.Error("zeros in other portions give another digest")
	}
}
