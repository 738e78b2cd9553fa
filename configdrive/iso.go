package configdrive

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	sectorSize = 2048
	// Sectors of the descriptors (ECMA-119 section 6.7.1: after 32 KiB).
	firstDescriptor = 16
	firstFree       = firstDescriptor + 3
)

// Drive is a finished config drive. It keeps the directories in memory and
// refers to the files, so it costs little more than its content.
type Drive struct {
	size  int64
	parts []part // sorted by off; what lies between is zero
}

type part struct {
	off  int64
	data []byte
}

// Size returns the length of the drive in bytes, a multiple of 2048.
func (d *Drive) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt.
func (d *Drive) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("config drive: read at %d", off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), d.size-off))
	clear(b[:n])
	i, _ := slices.BinarySearchFunc(d.parts, off, func(p part, off int64) int { return cmp.Compare(p.off+int64(len(p.data)), off) })
	for ; i < len(d.parts) && d.parts[i].off < off+int64(n); i++ {
		p := d.parts[i]
		if p.off >= off {
			copy(b[p.off-off:n], p.data)
		} else if skip := off - p.off; skip < int64(len(p.data)) {
			copy(b[:n], p.data[skip:])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteTo implements io.WriterTo.
func (d *Drive) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(d, 0, d.size))
}

// file is one file; directories that share it share its sectors.
type file struct {
	name   string
	data   []byte
	sector uint32
}

type dir struct {
	name   string
	dirs   []*dir
	files  []*file
	parent *dir
	number uint16 // in the path tables, from 1
	at     [2]uint32
	size   [2]uint32 // bytes
}

func (d *dir) add(name string, data []byte) {
	d.files = append(d.files, &file{name: name, data: data})
}

// kind is which of the two trees is meant: the primary one, whose Rock Ridge
// fields hold the real names, or Joliet's.
type kind int

const (
	primary kind = iota
	joliet
)

// id returns the identifier of a directory or file in tree k.
func (k kind) id(name string, isFile bool) []byte {
	if k == joliet {
		if isFile {
			name += ";1"
		}
		var b []byte
		for _, u := range utf16.Encode([]rune(name)) {
			b = binary.BigEndian.AppendUint16(b, u)
		}
		return b
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' && isFile {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	if isFile {
		if !strings.Contains(name, ".") {
			name += "."
		}
		name += ";1"
	}
	return []byte(name)
}

// layOut gives every directory and file its sectors and builds the drive.
func layOut(root *dir) (*Drive, error) {
	// Breadth first, as path tables are ordered.
	dirs := []*dir{root}
	root.parent = root
	for i := 0; i < len(dirs); i++ {
		d := dirs[i]
		d.number = uint16(i + 1)
		slices.SortFunc(d.dirs, func(a, b *dir) int { return strings.Compare(a.name, b.name) })
		slices.SortFunc(d.files, func(a, b *file) int { return strings.Compare(a.name, b.name) })
		for _, sub := range d.dirs {
			sub.parent = d
			dirs = append(dirs, sub)
		}
	}
	out := &Drive{}
	next := uint32(firstFree)
	take := func(n int) uint32 {
		at := next
		next += uint32((n + sectorSize - 1) / sectorSize)
		return at
	}
	// Sizes of the path tables do not depend on where directories lie.
	var tables [2][2]uint32
	for k := range tables {
		for e := range tables[k] {
			tables[k][e] = take(len(pathTable(dirs, kind(k), binary.LittleEndian)))
		}
	}
	for k := range 2 {
		for _, d := range dirs {
			d.size[k] = uint32(len(d.records(kind(k))))
			d.at[k] = take(int(d.size[k]))
		}
	}
	placed := map[*file]bool{}
	for _, d := range dirs {
		for _, f := range d.files {
			if placed[f] {
				continue
			}
			placed[f] = true
			if len(f.data) > math.MaxInt32 {
				return nil, fmt.Errorf("config drive: %s is too large", f.name)
			}
			f.sector = take(len(f.data))
			out.put(f.sector, f.data)
		}
	}
	out.size = int64(next) * sectorSize
	for k := range 2 {
		for e, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			out.put(tables[k][e], pathTable(dirs, kind(k), order))
		}
		for _, d := range dirs {
			out.put(d.at[k], d.records(kind(k)))
		}
		size := uint32(len(pathTable(dirs, kind(k), binary.LittleEndian)))
		out.put(firstDescriptor+uint32(k), descriptor(kind(k), root, next, size, tables[k]))
	}
	out.put(firstDescriptor+2, append([]byte{255}, "CD001\x01"...)) // set terminator
	slices.SortFunc(out.parts, func(a, b part) int { return cmp.Compare(a.off, b.off) })
	return out, nil
}

func (d *Drive) put(sector uint32, data []byte) {
	if len(data) > 0 {
		d.parts = append(d.parts, part{int64(sector) * sectorSize, data})
	}
}

// pathTable is ECMA-119 section 9.4.
func pathTable(dirs []*dir, k kind, order binary.AppendByteOrder) []byte {
	var b []byte
	for _, d := range dirs {
		id := []byte{0}
		if d.parent != d {
			id = k.id(d.name, false)
		}
		b = append(b, byte(len(id)), 0)
		b = order.AppendUint32(b, d.at[k])
		b = order.AppendUint16(b, d.parent.number)
		b = append(b, id...)
		if len(id)%2 == 1 {
			b = append(b, 0)
		}
	}
	return b
}

// records is the contents of a directory; a record never crosses a sector.
func (d *dir) records(k kind) []byte {
	var b []byte
	add := func(rec []byte) {
		if rest := sectorSize - len(b)%sectorSize; len(rec) > rest {
			b = append(b, make([]byte, rest)...)
		}
		b = append(b, rec...)
	}
	add(record([]byte{0}, d.at[k], d.size[k], true, k.rockRidge(d, nil, ".")))
	add(record([]byte{1}, d.parent.at[k], d.parent.size[k], true, k.rockRidge(d.parent, nil, "..")))
	type child struct{ id, rec []byte }
	var children []child
	for _, s := range d.dirs {
		id := k.id(s.name, false)
		children = append(children, child{id, record(id, s.at[k], s.size[k], true, k.rockRidge(s, nil, s.name))})
	}
	for _, f := range d.files {
		id := k.id(f.name, true)
		children = append(children, child{id, record(id, f.sector, uint32(len(f.data)), false, k.rockRidge(nil, f, f.name))})
	}
	slices.SortFunc(children, func(a, b child) int { return bytes.Compare(a.id, b.id) })
	for _, c := range children {
		add(c.rec)
	}
	if rest := len(b) % sectorSize; rest > 0 {
		b = append(b, make([]byte, sectorSize-rest)...)
	}
	return b
}

// stamp is the time of everything on the drive: a fixed one, 1 January 1980 UTC,
// so that the same content gives the same drive.
var stamp = []byte{80, 1, 1, 0, 0, 0, 0}

// record is a directory record, ECMA-119 section 9.1.
func record(id []byte, sector, size uint32, isDir bool, systemUse []byte) []byte {
	b := make([]byte, 2, 128)
	b = both32(b, sector)
	b = both32(b, size)
	b = append(b, stamp...)
	flags := byte(0)
	if isDir {
		flags = 2
	}
	b = append(b, flags, 0, 0)
	b = both16(b, 1) // volume
	b = append(b, byte(len(id)))
	b = append(b, id...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b = append(b, systemUse...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

// rockRidge is the system use area of a record: SUSP (IEEE P1281) and RRIP
// (IEEE P1282). Only root may read: user data holds secrets.
func (k kind) rockRidge(d *dir, f *file, name string) []byte {
	if k == joliet {
		return nil
	}
	var b []byte
	root := d != nil && d.parent == d && name == "."
	if root {
		b = append(b, "SP\x07\x01\xbe\xef\x00"...)
	}
	mode, links := uint32(0o100400), uint32(1)
	if d != nil {
		mode, links = 0o040500, uint32(2+len(d.dirs))
	}
	b = append(b, "PX\x24\x01"...)
	b = both32(b, mode)
	b = both32(b, links)
	b = both32(b, 0) // user
	b = both32(b, 0) // group
	b = append(b, "TF\x1a\x01\x0e"...)
	for range 3 { // modified, accessed, attributes changed
		b = append(b, stamp...)
	}
	if name != "." && name != ".." {
		b = append(b, 'N', 'M', byte(5+len(name)), 1, 0)
		b = append(b, name...)
	}
	if root {
		const id = "RRIP_1991A"
		b = append(b, 'E', 'R', byte(8+len(id)), 1, byte(len(id)), 0, 0, 1)
		b = append(b, id...)
	}
	return b
}

// descriptor is the primary or, for Joliet, supplementary volume descriptor,
// ECMA-119 sections 8.4 and 8.5.
func descriptor(k kind, root *dir, sectors, tableSize uint32, tables [2]uint32) []byte {
	text := func(s string, n int) []byte {
		b := []byte(s)
		pad := []byte{' '}
		if k == joliet {
			b, pad = joliet.id(s, false), []byte{0, ' '}
		}
		for len(b)+len(pad) <= n {
			b = append(b, pad...)
		}
		return append(b, make([]byte, n-len(b))...)
	}
	b := make([]byte, 0, sectorSize)
	b = append(b, byte(1+k))
	b = append(b, "CD001\x01\x00"...)
	b = append(b, text("LINUX", 32)...)
	b = append(b, text(Label, 32)...)
	b = append(b, make([]byte, 8)...)
	b = both32(b, sectors)
	escape := make([]byte, 32)
	if k == joliet {
		copy(escape, "%/E") // UCS-2 level 3
	}
	b = append(b, escape...)
	b = both16(b, 1)
	b = both16(b, 1)
	b = both16(b, sectorSize)
	b = both32(b, tableSize)
	b = binary.LittleEndian.AppendUint32(b, tables[0])
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, tables[1])
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, record([]byte{0}, root.at[k], root.size[k], true, nil)...)
	b = append(b, text("", 128)...)
	b = append(b, text("", 128)...)
	b = append(b, text("TEETH", 128)...)
	b = append(b, text("TEETH", 128)...)
	for range 3 {
		b = append(b, text("", 37)...)
	}
	for range 4 { // dates, all unspecified
		b = append(b, "0000000000000000\x00"...)
	}
	b = append(b, 1, 0)
	return b[:sectorSize]
}

func both16(b []byte, v uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, v), v)
}

func both32(b []byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, v), v)
}
