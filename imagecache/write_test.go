package imagecache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/teeth-metal/teeth/blockdev"
)

// memorySource is a Source that also stands for a cached file.
type memorySource struct{ *bytes.Reader }

func (m memorySource) Open(context.Context) (io.ReadCloser, int64, error) {
	return io.NopCloser(io.NewSectionReader(m.Reader, 0, m.Size())), m.Size(), nil
}

func source(b []byte) memorySource { return memorySource{bytes.NewReader(b)} }

// holds fails unless the disk holds raw, and beyond it what it held before but
// for the last MiB.
func holds(t *testing.T, path string, raw []byte) {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := (len(raw) + 511) / 512 * 512
	padded := append(bytes.Clone(raw), make([]byte, n-len(raw))...)
	if !bytes.Equal(disk[:n], padded) {
		for i := range padded {
			if disk[i] != padded[i] {
				t.Fatalf("the disk differs from the image at %d: %#x, want %#x", i, disk[i], padded[i])
			}
		}
	}
	if tail := max(n, len(disk)-bootSize); !bytes.Equal(disk[tail:], make([]byte, len(disk)-tail)) {
		t.Error("the last MiB is not zero: an old backup GPT may be there")
	}
}

// unbootable fails unless the first and the last MiB are zero.
func unbootable(t *testing.T, path string) {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !isZero(disk[:bootSize]) || !isZero(disk[len(disk)-bootSize:]) {
		t.Error("the ends of the disk are not zero")
	}
}

func TestWriteFormats(t *testing.T) {
	raw := sparse(1, 5*mib)
	odd := sparse(2, 5*mib+12345)
	small := random(3, 700)
	for name, c := range map[string]struct {
		f         Format
		file, raw []byte
		disk      int
	}{
		"raw":              {Raw, raw, raw, 8 * mib},
		"raw, whole disk":  {Raw, raw, raw, 5 * mib},
		"raw, odd":         {Raw, odd, odd, 8 * mib},
		"raw, odd disk":    {Raw, odd, odd, 8*mib + 512},
		"raw, one sector":  {Raw, small, small, 4 * mib},
		"raw, small disk":  {Raw, small, small, 8192},
		"gzip":             {RawGzip, gz(t, raw), raw, 8 * mib},
		"gzip, two parts":  {RawGzip, append(gz(t, raw[:mib]), gz(t, raw[mib:])...), raw, 8 * mib},
		"zstd":             {RawZstd, zst(t, raw), raw, 8 * mib},
		"zstd, two frames": {RawZstd, append(zst(t, raw[:3*mib]), zst(t, raw[3*mib:])...), raw, 8 * mib},
		"zstd, odd":        {RawZstd, run(t, odd, "zstd", "-19", "-c"), odd, 8 * mib},
		"xz":               {RawXZ, run(t, raw, "xz", "-0", "-c"), raw, 8 * mib},
		"qcow2":            {QCOW2, qcow(t, raw), raw, 8 * mib},
		"qcow2, full disk": {QCOW2, qcow(t, raw), raw, 5 * mib},
		"qcow2 zlib":       {QCOW2, qcow(t, raw, "-c"), raw, 8 * mib},
		"qcow2 zstd":       {QCOW2, qcow(t, raw, "-c", "-o", "compression_type=zstd"), raw, 8 * mib},
		"qcow2 2M":         {QCOW2, qcow(t, raw, "-c", "-o", "cluster_size=2M"), raw, 8 * mib},
		"qcow2 512":        {QCOW2, qcow(t, raw, "-o", "cluster_size=512"), raw, 8 * mib},
		"qcow2 version 2":  {QCOW2, qcow(t, raw, "-o", "compat=0.10"), raw, 8 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			disk := dirty(t, c.disk)
			var done, total int64
			rep, err := Write(context.Background(), source(c.file), imageOf(1, c.f, c.file), disk, WriteOptions{
				Verify: true, Expect: blockdev.Identity{Size: int64(c.disk)},
				Progress: func(d, t int64) { done, total = d, t },
			})
			if err != nil {
				t.Fatal(err)
			}
			holds(t, disk, c.raw)
			if want := int64(len(c.raw)+511) / 512 * 512; rep.RawSize != want {
				t.Errorf("raw size is %d, want %d", rep.RawSize, want)
			}
			// Head and tail are counted as data whatever they hold.
			if rep.BytesWritten+rep.BytesZeroed != rep.RawSize || len(c.raw) > 2*mib && rep.BytesZeroed < mib {
				t.Errorf("%+v", rep)
			}
			if !strings.HasPrefix(rep.Digest, "sha256:"+imageOf(1, c.f, c.file).Hashes["sha256"]) {
				t.Errorf("digest is %s", rep.Digest)
			}
			if done != total || total != 2*int64(len(c.file)) {
				t.Errorf("progress ended at %d of %d, file has %d", done, total, len(c.file))
			}
		})
	}
}

func TestWriteStreams(t *testing.T) {
	raw := sparse(1, 9*mib)
	s := serve(t, raw)
	s.cut = 4 * mib
	disk := dirty(t, 16*mib)
	img := imageOf(1, Raw, raw, s.url())
	if _, err := Write(context.Background(), fast.Source(img), img, disk, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, disk, raw)
	// The file changes half way: the write starts anew with the new one.
	next := sparse(2, 9*mib)
	s = serve(t, raw)
	s.cut = 4 * mib
	s.onCut = func(s *server) { s.file, s.etag, s.cut = next, `"2"`, 0 }
	img = imageOf(1, Raw, next, s.url())
	if _, err := Write(context.Background(), fast.Source(img), img, disk, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, disk, next)
	// The new file's holes must not show what came of the old one.
	full := random(3, 9*mib)
	s = serve(t, full)
	s.cut = 8 * mib
	s.onCut = func(s *server) { s.file, s.etag, s.cut = next, `"2"`, 0 }
	img = imageOf(1, Raw, next, s.url())
	zeros := blank(t, 16*mib)
	if _, err := Write(context.Background(), fast.Source(img), img, zeros, WriteOptions{AssumeZero: true}); err != nil {
		t.Fatal(err)
	}
	holds(t, zeros, next)
	// One mirror has another file of the same size: the next one is asked.
	bad, good := serve(t, raw), serve(t, next)
	img = imageOf(1, Raw, next, bad.url(), good.url())
	if _, err := Write(context.Background(), fast.Source(img), img, disk, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, disk, next)
	if bad.requests != 1 || good.requests != 1 {
		t.Errorf("%d and %d requests", bad.requests, good.requests)
	}
}

func TestWriteBadFiles(t *testing.T) {
	raw := sparse(1, 5*mib)
	wrong := func(f Format, b []byte) Image {
		i := imageOf(1, f, b)
		i.Hashes["sha256"] = strings.Repeat("0", 64)
		return i
	}
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	z := zst(t, raw)
	bomb := zst(t, make([]byte, 64*mib))
	long := zst(t, random(1, 40*mib), zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	for name, c := range map[string]struct {
		file      []byte
		img       Image
		want      error
		text      string
		untouched bool
	}{
		"wrong digest":         {raw, wrong(Raw, raw), ErrDigest, "expected 000", false},
		"wrong digest, zstd":   {z, wrong(RawZstd, z), ErrDigest, "", false},
		"wrong digest, qcow2":  {qcow(t, raw), wrong(QCOW2, qcow(t, raw)), ErrDigest, "", true},
		"broken zstd":          {flip(z), imageOf(1, RawZstd, z), ErrDigest, "", false},
		"broken gzip":          {flip(gz(t, raw)), imageOf(1, RawGzip, gz(t, raw)), ErrDigest, "", false},
		"truncated, digest ok": {z[:len(z)-9], imageOf(1, RawZstd, z[:len(z)-9]), io.ErrUnexpectedEOF, "", false},
		"truncated gzip":       {gz(t, raw)[:mib], imageOf(1, RawGzip, gz(t, raw)[:mib]), io.ErrUnexpectedEOF, "", false},
		"other size":           {raw, imageOf(1, Raw, raw[:mib]), ErrDigest, "expected 1048576", true},
		"too large":            {random(1, 9*mib), imageOf(1, Raw, random(1, 9*mib)), ErrNoRoom, "8388608", true},
		"bomb":                 {bomb, imageOf(1, RawZstd, bomb), ErrNoRoom, "8388608", false},
		"qcow2 too large":      {qcow(t, make([]byte, 9*mib)), imageOf(1, QCOW2, qcow(t, make([]byte, 9*mib))), ErrNoRoom, "", true},
		"qcow2 said to be raw": {qcow(t, raw), imageOf(1, Raw, qcow(t, raw)), nil, "is qcow2", true},
		"empty":                {nil, imageOf(1, Raw, nil), nil, "empty", false},
		"empty zstd":           {run(t, nil, "zstd", "-c"), imageOf(1, RawZstd, run(t, nil, "zstd", "-c")), nil, "empty", false},
		"empty xz":             {run(t, nil, "xz", "-c"), imageOf(1, RawXZ, run(t, nil, "xz", "-c")), nil, "empty", false},
		"raw said to be zstd":  {raw, imageOf(1, RawZstd, raw), nil, "is raw", true},
		"huge window":          {long, imageOf(1, RawZstd, long), zstd.ErrWindowSizeExceeded, "--ultra", false},
	} {
		t.Run(name, func(t *testing.T) {
			disk := dirty(t, 8*mib)
			_, err := Write(context.Background(), source(c.file), c.img, disk, WriteOptions{})
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), disk) {
				t.Fatalf("error: %v", err)
			}
			if !c.untouched {
				unbootable(t, disk)
			} else if b, _ := os.ReadFile(disk); !bytes.Equal(b, bytes.Repeat([]byte{0xd1}, 8*mib)) {
				t.Error("the disk was touched")
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	raw := random(1, mib)
	disk := dirty(t, 8*mib)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(disk, link); err != nil {
		t.Fatal(err)
	}
	img := imageOf(1, Raw, raw)
	for name, c := range map[string]struct {
		img  Image
		opt  WriteOptions
		want error
	}{
		"serial":    {img, WriteOptions{Expect: blockdev.Identity{Serial: "S1"}}, blockdev.ErrMismatch},
		"protected": {img, WriteOptions{Protected: []string{"/nonexistent", link}}, blockdev.ErrProtected},
		"no digest": {Image{ID: id(1), Format: Raw}, WriteOptions{}, nil},
	} {
		if _, err := Write(context.Background(), source(raw), c.img, disk, c.opt); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	img.Format = QCOW2
	if _, err := Write(context.Background(), fast.Source(img), img, disk, WriteOptions{}); err == nil || !strings.Contains(err.Error(), "cache it first") {
		t.Errorf("streamed qcow2: %v", err)
	}
	if b, _ := os.ReadFile(disk); !bytes.Equal(b, bytes.Repeat([]byte{0xd1}, 8*mib)) {
		t.Error("the disk was touched")
	}
}

// slow is a source that reports where it is and waits.
type slow struct {
	memorySource
	at func(off int64)
}

func (s slow) Open(ctx context.Context) (io.ReadCloser, int64, error) {
	r, size, err := s.memorySource.Open(ctx)
	off := int64(0)
	return struct {
		io.Reader
		io.Closer
	}{readerFunc(func(b []byte) (int, error) {
		n, err := r.Read(b[:min(len(b), 256<<10)])
		off += int64(n)
		s.at(off)
		return n, err
	}), r}, size, err
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// At no moment before the digest matched could the disk boot, and a write that
// is cut off anywhere is made good by the next.
func TestWriteCutOff(t *testing.T) {
	raw := sparse(1, 5*mib) // to the last byte of the disk
	img := imageOf(1, Raw, raw)
	disk := dirty(t, 5*mib)
	for stop := int64(mib); stop <= int64(len(raw)); stop += mib {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Write(ctx, slow{source(raw), func(off int64) {
			if off >= mib {
				unbootable(t, disk) // what a power cut now would leave
			}
			if off >= stop {
				cancel()
			}
		}}, img, disk, WriteOptions{})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled at %d: %v", stop, err)
		}
		unbootable(t, disk)
	}
	if _, err := Write(context.Background(), source(raw), img, disk, WriteOptions{Verify: true}); err != nil {
		t.Fatal(err)
	}
	holds(t, disk, raw)
}

func TestWriteCancelIsPrompt(t *testing.T) {
	s := serve(t, random(1, 4*mib))
	s.stall = true
	f := fast
	f.Stall = time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	img := imageOf(1, Raw, s.file, s.url())
	time.AfterFunc(100*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := Write(ctx, f.Source(img), img, dirty(t, 8*mib), WriteOptions{}); !errors.Is(err, context.Canceled) || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestAssumeZero(t *testing.T) {
	raw := sparse(1, 9*mib)
	blank := filepath.Join(t.TempDir(), "blank")
	if err := os.WriteFile(blank, make([]byte, 16*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), source(raw), imageOf(1, Raw, raw), blank, WriteOptions{AssumeZero: true, Verify: true}); err != nil {
		t.Fatal(err)
	}
	holds(t, blank, raw)
	// On a disk that is not zero, the check finds out and nothing boots.
	disk := dirty(t, 16*mib)
	if _, err := Write(context.Background(), source(raw), imageOf(1, Raw, raw), disk, WriteOptions{AssumeZero: true, Verify: true}); !errors.Is(err, ErrVerify) {
		t.Errorf("error: %v", err)
	}
	unbootable(t, disk)
}

// A disk that has no command for zeros gets them written.
func TestHolesWithoutPunching(t *testing.T) {
	path := dirty(t, 8*mib)
	d, err := blockdev.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := newSink(context.Background(), d, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.noPunch.Store(true)
	if err := s.zero(context.Background(), 0, 6*mib+512); err != nil {
		t.Fatal(err)
	}
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !isZero(b[:6*mib+512]) || b[6*mib+512] != 0xd1 {
		t.Error("zeros are not where they belong")
	}
}

func benchmarkWrite(b *testing.B, f Format, file []byte, raw int, opt WriteOptions) {
	disk := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, raw), 0o600); err != nil {
		b.Fatal(err)
	}
	img := imageOf(1, f, file)
	b.SetBytes(int64(raw))
	for b.Loop() {
		if _, err := Write(context.Background(), source(file), img, disk, opt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	raw := sparse(1, 256*mib)
	clear(raw[64*mib : 240*mib])
	b.Run("raw", func(b *testing.B) { benchmarkWrite(b, Raw, raw, len(raw), WriteOptions{}) })
	b.Run("zst", func(b *testing.B) { benchmarkWrite(b, RawZstd, zst(b, raw), len(raw), WriteOptions{}) })
	b.Run("verify", func(b *testing.B) { benchmarkWrite(b, Raw, raw, len(raw), WriteOptions{Verify: true}) })
}
