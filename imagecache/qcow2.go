package imagecache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"
	"github.com/lima-vm/go-qcow2reader/log"

	"github.com/teeth-metal/teeth/blockdev"
)

func init() {
	log.SetWarnFunc(nil) // what it warns of is refused by checkQCOW2
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, inflate)
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, unzstd)
}

// Bits of the incompatible features in a header of version 3.
const (
	qcow2Dirty = 1 << iota
	qcow2Corrupt
	qcow2DataFile
	qcow2Compression
)

// openQCOW2 opens a qcow2 file whose digest has been checked. maxSize bounds the
// disk inside it.
func openQCOW2(r io.ReaderAt, fileSize, maxSize int64) (*qcow2.Qcow2, error) {
	if err := checkQCOW2(r, fileSize, maxSize); err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	noBacking := func(io.ReaderAt, image.Type) (image.Image, error) {
		return nil, errors.New("backing files are refused")
	}
	// Only the bytes: the reader would look for other files beside a named one.
	q, err := qcow2.Open(io.NewSectionReader(r, 0, fileSize), noBacking)
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	if err := q.Readable(); err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	return q, nil
}

// checkQCOW2 allows what we know to be safe and refuses all else: a header can
// name other files to be read, and tables of any size. The layout is that of
// docs/interop/qcow2.txt in QEMU.
func checkQCOW2(r io.ReaderAt, fileSize, maxSize int64) error {
	h := make([]byte, 112)
	if n, err := r.ReadAt(h, 0); n < 72 {
		return fmt.Errorf("read header: %w", unexpected(err))
	}
	be := binary.BigEndian
	version, bits := be.Uint32(h[4:]), be.Uint32(h[20:])
	size, l1 := be.Uint64(h[24:]), uint64(be.Uint32(h[36:]))
	switch {
	case string(h[:4]) != qcow2.Magic:
		return errors.New("not a qcow2 file")
	case version != 2 && version != 3:
		return fmt.Errorf("version %d: want 2 or 3", version)
	case be.Uint64(h[8:]) != 0 || be.Uint32(h[16:]) != 0:
		return errors.New("it has a backing file: flatten it with qemu-img convert")
	case bits < 9 || bits > 21:
		return fmt.Errorf("clusters of 2^%d bytes: want 2^9 to 2^21", bits)
	case be.Uint32(h[32:]) != 0:
		return errors.New("it is encrypted: convert it to a plain one")
	case size == 0 || size > 1<<62:
		return fmt.Errorf("a disk of %d bytes", size)
	case int64(size) > maxSize:
		return fmt.Errorf("%w: it holds a disk of %d bytes, this disk has %d", ErrNoRoom, size, maxSize)
	case l1 > 32<<20/8:
		return fmt.Errorf("a first table of %d entries", l1)
	}
	perTable := uint64(1) << (2*bits - 3) // bytes one entry stands for
	if l1 < (size+perTable-1)/perTable {
		return fmt.Errorf("a first table of %d entries for a disk of %d bytes", l1, size)
	}
	if at := be.Uint64(h[40:]); at == 0 || at > uint64(fileSize) || l1*8 > uint64(fileSize)-at {
		return fmt.Errorf("the first table lies outside of the file, at %d", at)
	}
	if version == 2 {
		return nil
	}
	features, length := be.Uint64(h[72:]), be.Uint32(h[100:])
	switch {
	case features&qcow2DataFile != 0:
		return errors.New("it has an external data file: convert it to a plain one")
	case features&qcow2Corrupt != 0:
		return errors.New("it is marked as corrupt: repair it with qemu-img check -r all")
	case features&^(qcow2Dirty|qcow2Compression) != 0:
		return fmt.Errorf("it needs features %#x, which are not supported: convert it with qemu-img", features)
	case length < 104 || length > 1<<bits || length%8 != 0:
		return fmt.Errorf("a header of %d bytes", length)
	}
	return nil
}

// copyQCOW2 hands every extent of q to the sink. report gets bytes of the disk.
func copyQCOW2(ctx context.Context, q *qcow2.Qcow2, out *sink, report func(done, total int64)) error {
	const step = 1 << 30 // so that cancelling is prompt
	// A cluster may be smaller than what the sink can write by itself. Extents
	// are cut to whole units, and one smaller than that is read with its neighbours.
	unit := max(int64(out.d.Info.LogicalBlock), blockdev.Alignment)
	size := q.Size()
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := q.Extent(at, min(step, size-at))
		if err != nil {
			return fmt.Errorf("qcow2: clusters at %d: %w", at, err)
		}
		if e.Length <= 0 || e.Start != at {
			return fmt.Errorf("qcow2: no clusters at %d", at)
		}
		end := min(at+e.Length, size)
		if end < size && (end-at)%unit != 0 {
			end -= (end - at) % unit
			if end == at {
				end, e.Zero = min(at+unit, size), false
			}
		}
		if e.Zero {
			if err := out.zero(ctx, at, end-at); err != nil {
				return err
			}
			at = end
		}
		for at < end {
			buf, err := out.buffer(ctx)
			if err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), end-at)]
			if n, err := q.ReadAt(b, at); n < len(b) {
				return fmt.Errorf("qcow2: read at %d: %w", at, unexpected(err))
			}
			if err := out.write(ctx, at, b); err != nil {
				return err
			}
			at += int64(len(b))
			report(at, size)
		}
		report(at, size)
	}
	return nil
}

// pooled is a decompressor of one cluster, reused for the next. It fills every
// buffer it is given and never returns io.EOF with data, since the qcow2 reader
// takes a short read for the end.
type pooled struct {
	io.Reader
	pool *sync.Pool
	item any
}

func (p *pooled) Read(b []byte) (int, error) { return io.ReadFull(p.Reader, b) }

func (p *pooled) Close() error {
	p.pool.Put(p.item)
	return nil
}

var inflaters, zstds sync.Pool

func inflate(r io.Reader) (io.ReadCloser, error) {
	z, ok := inflaters.Get().(io.ReadCloser)
	if !ok {
		z = flate.NewReader(r)
	} else if err := z.(flate.Resetter).Reset(r, nil); err != nil {
		return nil, err
	}
	return &pooled{z, &inflaters, z}, nil
}

func unzstd(r io.Reader) (io.ReadCloser, error) {
	z, ok := zstds.Get().(*zstd.Decoder)
	if !ok {
		var err error
		if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
			return nil, err
		}
	}
	if err := z.Reset(r); err != nil {
		return nil, err
	}
	return &pooled{z, &zstds, z}, nil
}
