package archive

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory a compressed package can make a decompressor use, in
// bytes. dpkg-deb uses 8 MiB, rpmbuild at its highest level of xz 64 MiB.
const maxWindow = 64 << 20

// decompress returns the contents of r by what it begins with, r itself if that is no
// compression known.
func (a *Reader) decompress(r io.Reader) (io.Reader, error) {
	z, err := a.decompressor(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, err
	}
	left := int64(math.MaxInt64)
	if a.max.Bytes < left/4 {
		left = 2*a.max.Bytes + 64<<20 // headers and padding are in it, too
	}
	return &stream{z, a.ctx, left}, nil
}

func (a *Reader) decompressor(b *bufio.Reader) (io.Reader, error) {
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read package: %w", err)
	}
	begins := func(magic string) bool { return len(head) >= len(magic) && string(head[:len(magic)]) == magic }
	switch {
	case begins("\x1f\x8b"):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, broken("gzip", err)
		}
		a.done = append(a.done, z.Close)
		return named{z, "gzip"}, nil
	case begins("\x28\xb5\x2f\xfd"), len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18":
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62)) // what it unpacks to is bounded elsewhere
		if err != nil {
			return nil, broken("zstd", err)
		}
		a.done = append(a.done, func() error { z.Close(); return nil })
		return named{z, "zstd"}, nil
	case begins("\xfd7zXZ\x00"):
		z, err := xz.NewReader(b, maxWindow)
		if err != nil {
			return nil, broken("xz", err)
		}
		return named{z, "xz"}, nil
	case begins("BZh"):
		return named{bzip2.NewReader(b), "bzip2"}, nil
	}
	return b, nil
}

// named says which decompressor an error is from.
type named struct {
	io.Reader
	name string
}

func (n named) Read(b []byte) (int, error) {
	m, err := n.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = broken(n.name, err)
	}
	return m, err
}

func broken(name string, err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, xz.ErrMemlimit) {
		err = fmt.Errorf("%w: more than %d MiB; compress at a lower level", err, maxWindow>>20)
	}
	return fmt.Errorf("%w: %s: %w", ErrFormat, name, unexpected(err))
}
