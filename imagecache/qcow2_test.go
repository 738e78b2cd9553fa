package imagecache

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
)

// sealHeader is a header with a right checksum around text.
func sealHeader(text []byte, seq uint64) []byte {
	text = text[:min(len(text), headerCopy-headerFixed)]
	b := make([]byte, headerCopy)
	copy(b, headerMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], seq)
	le.PutUint32(b[16:], uint32(len(text)))
	copy(b[headerFixed:], text)
	le.PutUint32(b[20:], crc32.Update(crc32.ChecksumIEEE(b[8:20]), crc32.IEEETable, text))
	return b
}

func TestQCOW2Refuses(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("SECRET!\n"), mib/8), 0o600); err != nil {
		t.Fatal(err)
	}
	make := func(name string, args ...string) []byte {
		path := filepath.Join(dir, name)
		run(t, nil, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, "1M")...)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := make("plain")
	if _, err := openQCOW2(bytes.NewReader(plain), int64(len(plain)), mib); err != nil {
		t.Fatal(err)
	}
	be := binary.BigEndian
	patch := func(change func(h []byte)) []byte {
		b := bytes.Clone(plain)
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		file []byte
		text string
	}{
		"backing file":       {make("backing", "-b", secret, "-F", "raw"), "backing file"},
		"external data file": {make("data", "-o", "data_file="+filepath.Join(dir, "d")+",data_file_raw=on"), "external data file"},
		"extended L2":        {make("ext", "-o", "extended_l2=on"), "features"},
		// Made by hand: qemu-img measures CPU time to choose a key, and fails on a busy machine.
		"LUKS":            {patch(func(h []byte) { be.PutUint32(h[32:], 2) }), "encrypted"},
		"corrupt":         {patch(func(h []byte) { h[79] |= 2 }), "corrupt"},
		"unknown feature": {patch(func(h []byte) { h[72] |= 0x80 }), "features"},
		"huge L1":         {patch(func(h []byte) { be.PutUint32(h[36:], 0xffffffff) }), "first table"},
		"no L1":           {patch(func(h []byte) { be.PutUint32(h[36:], 0) }), "first table"},
		"L1 outside":      {patch(func(h []byte) { be.PutUint64(h[40:], 1<<40) }), "outside"},
		"L1 wraps":        {patch(func(h []byte) { be.PutUint64(h[40:], 1<<64-8) }), "outside"},
		"tiny clusters":   {patch(func(h []byte) { be.PutUint32(h[20:], 1) }), "clusters"},
		"huge clusters":   {patch(func(h []byte) { be.PutUint32(h[20:], 63) }), "clusters"},
		"huge disk":       {patch(func(h []byte) { be.PutUint64(h[24:], 1<<61) }), "holds a disk"},
		"negative disk":   {patch(func(h []byte) { be.PutUint64(h[24:], 1<<63) }), "disk of"},
		"version 4":       {patch(func(h []byte) { h[7] = 4 }), "version"},
		"header length":   {patch(func(h []byte) { be.PutUint32(h[100:], 0xfffffff8) }), "header of"},
		"short":           {plain[:60], "header"},
	} {
		if _, err := openQCOW2(bytes.NewReader(c.file), int64(len(c.file)), mib); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a file holds, reading it ends, stays inside of it and does not panic.
func FuzzQCOW2(f *testing.F) {
	seed := make([]byte, 4*512)
	copy(seed, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(seed[4:], 3)
	be.PutUint32(seed[20:], 9)
	be.PutUint64(seed[24:], 64*512)
	be.PutUint32(seed[36:], 1)
	be.PutUint64(seed[40:], 512)
	be.PutUint32(seed[100:], 104)
	be.PutUint64(seed[512:], 1<<63|1024)
	be.PutUint64(seed[1024:], 1<<63|1536)
	be.PutUint64(seed[1032:], 1<<62|1536)
	copy(seed[1536:], "data")
	f.Add(seed)
	zstdSeed := bytes.Clone(seed)
	zstdSeed[79] |= 8
	be.PutUint32(zstdSeed[100:], 112)
	zstdSeed[104] = 1
	copy(zstdSeed[1536:], zst(f, make([]byte, 512)))
	f.Add(zstdSeed)
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		q, err := openQCOW2(bytes.NewReader(b), int64(len(b)), limit)
		if err != nil {
			return
		}
		buf := make([]byte, 64<<10)
		for at := int64(0); at < q.Size(); {
			e, err := q.Extent(at, q.Size()-at)
			if err != nil {
				return
			}
			if e.Length <= 0 || e.Start != at {
				return // copyQCOW2 refuses it
			}
			n := min(e.Length, int64(len(buf)), q.Size()-at)
			if !e.Zero {
				if m, err := q.ReadAt(buf[:n], at); int64(m) < n {
					if err == nil {
						t.Fatal("short read without an error")
					}
					return
				}
			}
			at += n
		}
	})
}

// Clusters smaller than a sector of the disk must not be written one by one: each
// would be filled up with zeros over the next one.
func TestQCOW2ClustersBelowSector(t *testing.T) {
	raw := random(1, mib)
	for at := 0; at < len(raw); at += 3 * 512 {
		clear(raw[at:min(at+512, len(raw))])
	}
	file := qcow(t, raw, "-o", "cluster_size=512", "-S", "512")
	q, err := openQCOW2(bytes.NewReader(file), int64(len(file)), mib)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := q.Extent(0, mib); err != nil || e.Length != 512 {
		t.Fatalf("qemu-img made an extent of %d bytes, %v", e.Length, err)
	}
	path := dirty(t, 4*mib)
	d, err := blockdev.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.Info.LogicalBlock = 4096
	s, err := newSink(t.Context(), d, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.sum = newContents()
	if err := copyQCOW2(t.Context(), q, s, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if s.end != mib {
		t.Errorf("the image reaches to %d", s.end)
	}
	holds(t, path, raw)
}
