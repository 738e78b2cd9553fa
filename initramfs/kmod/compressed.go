package kmod

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxModule bounds a module, unpacked: the largest of Debian 12 has 14 MB.
const maxModule = 256 << 20

var suffixes = []string{".xz", ".zst", ".gz"}

func uncompressed(file string) string {
	for _, s := range suffixes {
		if base, ok := strings.CutSuffix(file, s); ok {
			return base
		}
	}
	return file
}

// ReadFile returns the content of a module or firmware file, unpacked if its
// name ends in .xz, .zst or .gz, as distributions ship them.
func ReadFile(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch {
	case strings.HasSuffix(name, ".xz"):
		r, err = xz.NewReader(bytes.NewReader(b), maxModule)
	case strings.HasSuffix(name, ".zst"):
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer d.Close()
			r = d
		}
	case strings.HasSuffix(name, ".gz"):
		r, err = gzip.NewReader(bytes.NewReader(b))
	default:
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	if len(out) > maxModule {
		return nil, fmt.Errorf("unpack %s: more than %d bytes", name, maxModule)
	}
	return out, nil
}
