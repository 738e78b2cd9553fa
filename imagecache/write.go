package imagecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/progress"
)

// WriteOptions of Write.
type WriteOptions struct {
	Expect    blockdev.Identity // the disk must be this one
	Protected []string          // paths of disks never to write to
	// AssumeZero leaves runs of zeros out. It is only right when all of the disk
	// is proven to read as zeros, by an erase since it was last written to.
	AssumeZero bool
	Verify     bool // read everything back in the end
	// Progress gets bytes of the image's file. Work in other units, converting
	// QCOW2 and with Verify the reading back, is scaled to its size. The total is
	// 0 while unknown.
	Progress progress.Func
}

// WriteReport says what Write did.
type WriteReport struct {
	BytesWritten int64  // data
	BytesZeroed  int64  // runs of zeros, however the disk got them
	RawSize      int64  // of the image on the disk, in whole sectors
	Digest       string // of the file, "sha256:…"
}

// Write puts an image on the disk or plain file at device.
//
// The first and the last MiB of the disk are zeroed to begin with, and get the
// image's data only after its digest has matched and all else is durable. So
// whatever happens, a disk that boots holds the whole image. A wrong digest gives
// an error that wraps ErrDigest; an image larger than the disk one that wraps
// ErrNoRoom. Holes of the image read as zeros afterwards even where the disk held
// old data. Memory use is bounded, about 16 MiB and what the format's window
// takes. Write is not resumed: a new one starts from the beginning.
func Write(ctx context.Context, src Source, img Image, device string, opt WriteOptions) (WriteReport, error) {
	rep, err := writeImage(ctx, src, img, device, opt)
	if err != nil {
		return WriteReport{}, fmt.Errorf("write image %s to disk %s: %w", img.ID, device, err)
	}
	return rep, nil
}

func writeImage(ctx context.Context, src Source, img Image, device string, opt WriteOptions) (WriteReport, error) {
	if err := img.Validate(); err != nil {
		return WriteReport{}, err
	}
	if f, ok := src.(*File); ok && !f.Image.SameFile(img) {
		return WriteReport{}, fmt.Errorf("%w: the cache has another file under this id", ErrNotCached)
	}
	d, err := blockdev.OpenTarget(device, opt.Expect, opt.Protected)
	if err != nil {
		return WriteReport{}, err
	}
	defer d.Close()
	if d.Info.Size == 0 || d.Info.Size%int64(d.Info.LogicalBlock) != 0 {
		return WriteReport{}, fmt.Errorf("its size of %d bytes is not in whole sectors", d.Info.Size)
	}
	w := &writer{d: d, img: img, opt: opt}
	for {
		if img.Format == QCOW2 {
			err = w.qcow2(ctx, src)
		} else {
			err = w.raw(ctx, src)
		}
		if err == nil {
			break
		}
		r, ok := src.(retrier)
		if !ok || ctx.Err() != nil {
			return WriteReport{}, err
		}
		if retry, rerr := r.again(err); !retry {
			return WriteReport{}, errors.Join(err, rerr)
		}
		w.opt.AssumeZero = false // what came of this attempt is on the disk
	}
	if err := d.RereadPartitions(); err != nil {
		return WriteReport{}, err
	}
	return w.report, nil
}

type writer struct {
	d      *blockdev.Device
	img    Image
	opt    WriteOptions
	report WriteReport
}

// raw streams a file through its decoder to the disk.
func (w *writer) raw(ctx context.Context, src Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a read that is under way
	r, size, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := w.img.checkSize(size); err != nil {
		return err
	}
	if w.img.Format == Raw && size > w.d.Info.Size {
		return fmt.Errorf("%w: the image has %d bytes, the disk %d", ErrNoRoom, size, w.d.Info.Size)
	}
	// Nothing is touched before the beginning of the file was seen.
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	head = head[:n]
	if err := w.img.checkMagic(head); err != nil {
		return err
	}
	out, err := w.newSink(ctx)
	if err != nil {
		return err
	}
	defer out.stop()
	sum := w.img.digester()
	ahead := newReadAhead(cut{r}, sum, head)
	defer func() {
		cancel()
		ahead.Close()
	}()
	total := max(size, w.img.Size, 0)
	if err := w.decode(ctx, ahead, out, total); err != nil {
		if ctx.Err() == nil && !errors.Is(err, ErrNoRoom) && context.Cause(out.failed) == nil {
			// Broken data may be why: the digest tells what is wrong.
			if derr := finishSum(ahead, sum); derr != nil {
				return fmt.Errorf("%w (%w)", derr, err)
			}
		}
		return err
	}
	if err := finishSum(ahead, sum); err != nil {
		return err
	}
	if err := w.img.checkSize(ahead.read.Load()); err != nil {
		return err
	}
	return w.finish(ctx, out, sum, max(total, ahead.read.Load()))
}

// newSink prepares the disk.
func (w *writer) newSink(ctx context.Context) (*sink, error) {
	out, err := newSink(ctx, w.d, w.opt.AssumeZero)
	if err == nil && w.opt.Verify {
		out.sum = newContents()
	}
	return out, err
}

// decode moves the decoded file to the sink.
func (w *writer) decode(ctx context.Context, ahead *readAhead, out *sink, total int64) error {
	z, err := decoder(w.img.Format, ahead)
	if err != nil {
		if cause := ahead.failure(); cause != nil {
			return cause
		}
		return err
	}
	defer z.Close()
	report := w.opt.Progress.Report
	if total > 0 {
		report = w.opt.Progress.Part(0, total, w.full(total))
	}
	for off := int64(0); ; {
		buf, err := out.buffer(ctx)
		if err != nil {
			return err
		}
		n, err := readFull(z, buf)
		if n > 0 {
			if werr := out.write(ctx, off, buf[:n]); werr != nil {
				return werr
			}
			off += int64(n)
			report(ahead.read.Load(), total)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if cause := ahead.failure(); cause != nil {
				return cause
			}
			return err
		}
	}
}

// readFull fills b; unlike io.ReadFull it lets a decoder's own
// io.ErrUnexpectedEOF be told from the regular end, which is io.EOF.
func readFull(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// finishSum reads what a decoder left of the file and checks the digest.
func finishSum(ahead *readAhead, sum *digester) error {
	if _, err := io.Copy(io.Discard, ahead); err != nil {
		return err
	}
	return sum.check()
}

// checkSize compares the size of a file with that of its image.
func (i Image) checkSize(size int64) error {
	if i.Size > 0 && size >= 0 && size != i.Size {
		return fmt.Errorf("image %s: %w: the file has %d bytes, expected %d", i.ID, ErrDigest, size, i.Size)
	}
	return nil
}

// qcow2 verifies the whole file first, as its tables lead anywhere in it.
func (w *writer) qcow2(ctx context.Context, src Source) error {
	ra, ok := src.(io.ReaderAt)
	if !ok {
		return errors.New("qcow2 cannot be streamed to a disk: cache it first, or use raw.zst")
	}
	r, size, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := w.img.checkSize(size); err != nil {
		return err
	}
	sum := w.img.digester()
	// Converting counts three times as much as reading the file before it.
	full := w.full(size)
	reading := w.opt.Progress.Part(0, size/4, full)
	if err := copyContext(ctx, sum, r, func(n int64) { reading(n, size) }); err != nil {
		return err
	}
	if err := sum.check(); err != nil {
		return err
	}
	q, err := openQCOW2(ra, size, w.d.Info.Size)
	if err != nil {
		return err
	}
	out, err := w.newSink(ctx)
	if err != nil {
		return err
	}
	defer out.stop()
	if err := copyQCOW2(ctx, q, out, w.opt.Progress.Part(size/4, size, full)); err != nil {
		return err
	}
	return w.finish(ctx, out, sum, size)
}

// finish makes the disk bootable and checks it.
func (w *writer) finish(ctx context.Context, out *sink, sum *digester, total int64) error {
	if err := out.drain(); err != nil {
		return err
	}
	if out.end == 0 {
		return fmt.Errorf("image %s: its file matches the digest, but is empty or decodes to nothing", w.img.ID)
	}
	if err := out.finish(); err != nil {
		return err
	}
	w.report = WriteReport{
		BytesWritten: out.written.Load(), BytesZeroed: out.zeroed.Load(),
		RawSize: out.end, Digest: sum.String(),
	}
	if w.opt.Verify {
		if err := w.verify(ctx, out, total); err != nil {
			return errors.Join(err, out.unboot())
		}
	}
	return nil
}

// verify reads the image back from the disk.
func (w *writer) verify(ctx context.Context, out *sink, total int64) error {
	report := w.opt.Progress.Part(total, w.full(total), w.full(total))
	got := newContents()
	buf := blockdev.Buffer(chunkSize)
	for off := int64(0); off < out.end; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), out.end-off)]
		if _, err := w.d.ReadAt(b, off); err != nil {
			return fmt.Errorf("read back at %d: %w", off, err)
		}
		got.Write(b)
		off += int64(len(b))
		report(off, out.end)
	}
	if !bytes.Equal(got.finish(), out.sum.finish()) {
		return ErrVerify
	}
	return nil
}

// full is the total of the progress on a file of n bytes.
func (w *writer) full(n int64) int64 {
	if w.opt.Verify {
		return 2 * n
	}
	return n
}

// copyContext is io.Copy that ends with ctx and reports the bytes copied.
func copyContext(ctx context.Context, to io.Writer, from io.Reader, report func(n int64)) error {
	buf := make([]byte, readBufferSize)
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
			done += int64(n)
			report(done)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
