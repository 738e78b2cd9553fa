package imagecache

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory a compressed file can make a decoder use, on
// machines with 256 MiB. `zstd --ultra -22` and `xz -9` want more, all smaller
// levels do not.
const maxWindow = 32 << 20

// decoder returns the contents of the disk that r, a file in format f, holds.
// Its Read returns io.EOF only after all checks of the format.
func decoder(f Format, r io.Reader) (io.ReadCloser, error) {
	switch f {
	case Raw:
		return io.NopCloser(r), nil
	case RawGzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", unexpected(err))
		}
		return z, nil
	case RawZstd:
		// The limit on memory is one on the whole output for a stream whose
		// header tells its size; the disk's size bounds that.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return zstdReader{z}, nil
	case RawXZ:
		z, err := xz.NewReader(bufio.NewReaderSize(r, 1<<18), maxWindow)
		if err != nil {
			return nil, xzError(err)
		}
		return io.NopCloser(xzReader{z}), nil
	}
	return nil, fmt.Errorf("format %.20q cannot be read as a stream", f)
}

type zstdReader struct{ *zstd.Decoder }

func (z zstdReader) Read(b []byte) (int, error) {
	n, err := z.Decoder.Read(b)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("%w: more than %d MiB; compress without --long and --ultra", err, maxWindow>>20)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("zstd: %w", err)
	}
	return n, err
}

func (z zstdReader) Close() error {
	z.Decoder.Close()
	return nil
}

type xzReader struct{ *xz.Reader }

func (z xzReader) Read(b []byte) (int, error) {
	n, err := z.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = xzError(err)
	}
	return n, err
}

func xzError(err error) error {
	if errors.Is(err, xz.ErrMemlimit) {
		return fmt.Errorf("%w of %d MiB; compress with xz -8 or less", err, maxWindow>>20)
	}
	return unexpected(err)
}
