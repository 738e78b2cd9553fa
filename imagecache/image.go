package imagecache

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/partition"
)

// Format is how an image's file holds the contents of a disk.
type Format string

// The formats known. It is always the declared one that counts: the contents
// must agree, but never decide (CVE-2024-44082).
const (
	Raw     Format = "raw"
	RawGzip Format = "raw.gz"
	RawZstd Format = "raw.zst"
	RawXZ   Format = "raw.xz"
	QCOW2   Format = "qcow2"
)

// Image describes a file that holds the contents of a disk.
type Image struct {
	ID   string // a UUID
	Name string // for people
	URLs []string
	// Hashes are of the file as fetched, hexadecimal, by algorithm: "sha256",
	// "sha512" or both. Others are ignored.
	Hashes map[string]string
	Format Format
	Size   int64 // bytes of the file as fetched; 0 if unknown
}

var algorithms = map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}

// Validate returns an error that says what to mend unless i can be fetched and
// verified.
func (i Image) Validate() error {
	if _, err := partition.ParseGUID(i.ID); err != nil {
		return fmt.Errorf("image id: %w", err)
	}
	if len(i.Name) > 256 {
		return fmt.Errorf("image %s: name is longer than 256 bytes", i.ID)
	}
	switch i.Format {
	case Raw, RawGzip, RawZstd, RawXZ, QCOW2:
	default:
		return fmt.Errorf("image %s: format %.20q: want raw, raw.gz, raw.zst, raw.xz or qcow2", i.ID, i.Format)
	}
	if i.Size < 0 {
		return fmt.Errorf("image %s: size is %d", i.ID, i.Size)
	}
	if len(i.digester().sums) == 0 {
		return fmt.Errorf("image %s: no sha256 or sha512 digest; one is needed", i.ID)
	}
	for name, make := range algorithms {
		if want, ok := i.Hashes[name]; ok {
			if b, err := hex.DecodeString(want); err != nil || len(b) != make().Size() {
				return fmt.Errorf("image %s: %s digest: want %d hexadecimal digits", i.ID, name, 2*make().Size())
			}
		}
	}
	for _, s := range i.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("image %s: a URL is not of http or https", i.ID) // it may hold a secret
		}
	}
	return nil
}

// key is the form of the id that names it in a store.
func (i Image) key() string { return strings.ToLower(i.ID) }

// SameFile reports whether both images mean one file.
func (i Image) SameFile(o Image) bool {
	return i.key() == o.key() && i.Format == o.Format && (i.Size == 0 || o.Size == 0 || i.Size == o.Size) &&
		maps.EqualFunc(i.digester().want, o.digester().want, strings.EqualFold)
}

// digester computes the digests an image wants of what is written to it.
type digester struct {
	id   string
	want map[string]string
	sums map[string]hash.Hash
}

func (i Image) digester() *digester {
	d := &digester{id: i.ID, want: map[string]string{}, sums: map[string]hash.Hash{}}
	for name, make := range algorithms {
		if w, ok := i.Hashes[name]; ok {
			d.want[name], d.sums[name] = w, make()
		}
	}
	return d
}

func (d *digester) Write(b []byte) (int, error) {
	for _, h := range d.sums {
		h.Write(b)
	}
	return len(b), nil
}

// check compares every digest.
func (d *digester) check() error {
	if len(d.sums) == 0 {
		return errors.New("no digest to check")
	}
	for name, h := range d.sums {
		if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, d.want[name]) {
			return fmt.Errorf("image %s: %w: %s is %s, expected %s", d.id, ErrDigest, name, got, d.want[name])
		}
	}
	return nil
}

// String returns one digest, as "sha256:0123…".
func (d *digester) String() string {
	for _, name := range slices.Sorted(maps.Keys(d.sums)) {
		return name + ":" + hex.EncodeToString(d.sums[name].Sum(nil))
	}
	return ""
}

// magics are what files of some formats begin with.
var magics = []struct {
	name  string
	bytes string
	off   int
}{
	{"qcow2", "QFI\xfb", 0},
	{"gzip", "\x1f\x8b\x08", 0},
	{"zstd", "\x28\xb5\x2f\xfd", 0},
	{"xz", "\xfd7zXZ\x00", 0},
	{"bzip2", "BZh", 0},
	{"LZ4", "\x04\x22\x4d\x18", 0},
	{"zip", "PK\x03\x04", 0},
	{"VMDK", "KDMV", 0},
	{"VMDK", "# Disk DescriptorFile", 0},
	{"VHDX", "vhdxfile", 0},
	{"VHD", "conectix", 0},
	{"VDI", "\x7f\x10\xda\xbe", 64},
	{"HTML", "<!DOCTYPE", 0},
	{"HTML", "<html", 0},
}

// headSize is how much of a file checkMagic looks at.
const headSize = 512

// checkMagic refuses a file whose beginning is not that of the declared format.
func (i Image) checkMagic(head []byte) error {
	found := "raw"
	for _, m := range magics {
		if len(head) >= m.off+len(m.bytes) && string(head[m.off:m.off+len(m.bytes)]) == m.bytes {
			found = m.name
			break
		}
	}
	// A zstd file may begin with a skippable frame.
	if i.Format == RawZstd && len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18" {
		found = "zstd"
	}
	want := map[Format]string{Raw: "raw", RawGzip: "gzip", RawZstd: "zstd", RawXZ: "xz", QCOW2: "qcow2"}[i.Format]
	if found != want {
		return fmt.Errorf("image %s: declared as %s, but the file is %s: correct its format", i.ID, i.Format, found)
	}
	return nil
}
