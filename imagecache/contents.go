package imagecache

import (
	"crypto/sha256"
	"hash"
)

// contents is a digest of what a disk holds that does not hash zeros, which
// are most of many images: every piece of holeSize bytes goes in as one byte 0
// when it is all zeros, else as a byte 1 and its data.
type contents struct {
	sum  hash.Hash
	part []byte // of a piece not yet full
}

func newContents() *contents {
	return &contents{sum: sha256.New(), part: make([]byte, 0, holeSize)}
}

// Write adds data; it never fails.
func (c *contents) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if len(c.part) == 0 && len(b) >= holeSize {
			c.piece(b[:holeSize])
			b = b[holeSize:]
			continue
		}
		m := min(holeSize-len(c.part), len(b))
		c.part = append(c.part, b[:m]...)
		b = b[m:]
		c.full()
	}
	return n, nil
}

// zero adds n zeros.
func (c *contents) zero(n int64) {
	zeros := make([]byte, holeSize)
	for n > 0 {
		if len(c.part) == 0 && n >= holeSize {
			// One byte for each whole piece.
			m := min(n/holeSize, holeSize)
			c.sum.Write(zeros[:m])
			n -= m * holeSize
			continue
		}
		m := min(int64(holeSize-len(c.part)), n)
		c.part = append(c.part, zeros[:m]...)
		n -= m
		c.full()
	}
}

func (c *contents) full() {
	if len(c.part) == holeSize {
		c.piece(c.part)
		c.part = c.part[:0]
	}
}

func (c *contents) piece(b []byte) {
	if isZero(b) {
		c.sum.Write([]byte{0})
		return
	}
	c.sum.Write([]byte{1})
	c.sum.Write(b)
}

// finish returns the digest of all that was added.
func (c *contents) finish() []byte {
	if len(c.part) > 0 {
		c.piece(c.part)
		c.part = c.part[:0]
	}
	return c.sum.Sum(nil)
}
