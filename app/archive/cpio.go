package archive

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
)

// The "new ASCII" cpio format that rpm uses: 6 bytes of magic and 13 numbers of 8
// hexadecimal digits, then the name and the contents, each padded to 4 bytes.
const (
	cpioHeaderLen = 110
	cpioTrailer   = "TRAILER!!!"

	modeType    = 0o170000
	modeRegular = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
)

// cpio reads a stream of entries.
type cpio struct {
	r       *bufio.Reader
	left    int64 // of the current file's contents
	pad     int64 // after them
	ready   []Entry
	ended   bool
	links   map[cpioFile]*cpioLinks
	names   int // bytes of the names in links
	special *int
}

// maxLinkNames bounds the names of files with several that are kept in memory, in
// bytes. Nothing else would: they take no room of what the package unpacks to before
// they are given out.
const maxLinkNames = 16 << 20

// cpioFile tells which names are hard links to one file.
type cpioFile struct{ ino, major, minor uint32 }

// cpioLinks are the names of a file with several. Only the last of them carries the
// contents, so the others wait for it.
type cpioLinks struct {
	wait  []Entry
	first string // the name that got the contents
}

type cpioHeader struct {
	file        cpioFile
	mode, nlink uint32
	size        int64
	name        string
}

func (c *cpio) next() (Entry, error) {
	if len(c.ready) > 0 {
		return c.pop(), nil
	}
	for !c.ended {
		if err := c.skip(c.left + c.pad); err != nil {
			return Entry{}, err
		}
		c.left, c.pad = 0, 0
		h, err := c.header()
		if err != nil {
			return Entry{}, fmt.Errorf("%w: cpio: %w", ErrFormat, unexpected(err))
		}
		if h.name == cpioTrailer {
			return c.end()
		}
		c.left, c.pad = h.size, padding(h.size)
		e, ok, err := c.entry(h)
		if err != nil {
			return Entry{}, err
		}
		if ok {
			return e, nil
		}
		if len(c.ready) > 0 {
			return c.pop(), nil
		}
	}
	return Entry{}, io.EOF
}

func (c *cpio) pop() Entry {
	e := c.ready[0]
	c.ready = c.ready[1:]
	return e
}

// end gives out what waited for contents that never came, which is empty files, and
// reads the rest, as a decompressor checks its sums at its end only.
func (c *cpio) end() (Entry, error) {
	c.ended = true
	for _, l := range c.links {
		for i, e := range l.wait {
			if i > 0 {
				e.Kind, e.Target = HardLink, l.wait[0].Name
			}
			c.ready = append(c.ready, e)
		}
	}
	c.links = nil
	if _, err := io.Copy(io.Discard, c.r); err != nil {
		return Entry{}, fmt.Errorf("%w: cpio: %w", ErrFormat, err)
	}
	return c.next()
}

// entry makes an entry of a header; ok is false if there is none to give out now.
func (c *cpio) entry(h cpioHeader) (e Entry, ok bool, err error) {
	name, err := cleanName(h.name)
	if err != nil {
		return Entry{}, false, err
	}
	e = Entry{Name: name, Perm: fs.FileMode(h.mode) & fs.ModePerm}
	switch h.mode & modeType {
	case modeDir:
		e.Kind = Dir
		return e, name != ".", nil
	case modeSymlink:
		if h.size == 0 || h.size > maxName {
			return Entry{}, false, checkTarget(name, "")
		}
		b := make([]byte, h.size)
		if _, err := io.ReadFull(c, b); err != nil {
			return Entry{}, false, fmt.Errorf("%w: cpio: %w", ErrFormat, unexpected(err))
		}
		e.Kind, e.Target = Symlink, string(b)
		return e, true, checkTarget(name, e.Target)
	case modeRegular:
		e.Kind, e.Size = File, h.size
	default:
		*c.special++
		return Entry{}, false, nil
	}
	if h.nlink < 2 {
		return e, true, nil
	}
	const each = 128 // bytes that an entry takes besides its name
	if c.names += len(name) + each; c.names > maxLinkNames {
		return Entry{}, false, fmt.Errorf("%w: cpio: the names of its hard links take more than %d bytes", ErrTooLarge, maxLinkNames)
	}
	l := c.links[h.file]
	if l == nil {
		l = &cpioLinks{}
		c.links[h.file] = l
	}
	switch {
	case l.first != "":
		if h.size > 0 {
			return Entry{}, false, fmt.Errorf("%w: cpio: %.200q and %.200q are one file with two contents", ErrFormat, l.first, name)
		}
		e.Kind, e.Target, e.Size = HardLink, l.first, 0
		return e, true, nil
	case h.size == 0:
		l.wait = append(l.wait, e)
		return Entry{}, false, nil
	}
	l.first = name
	for _, w := range l.wait {
		w.Kind, w.Target = HardLink, name
		c.ready = append(c.ready, w)
	}
	l.wait = nil
	return e, true, nil
}

// header reads what precedes the contents.
func (c *cpio) header() (h cpioHeader, err error) {
	var b [cpioHeaderLen]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return h, err
	}
	switch string(b[:6]) {
	case "070701", "070702":
	case "07070X":
		return h, fmt.Errorf("a payload of the form for files of more than 4 GiB is not read")
	default:
		return h, fmt.Errorf("bad magic %.6q", b[:6])
	}
	var n [13]uint32
	for i := range n {
		var v [4]byte
		if _, err := hex.Decode(v[:], b[6+8*i:14+8*i]); err != nil {
			return h, fmt.Errorf("number %d: %w", i, err)
		}
		n[i] = uint32(v[0])<<24 | uint32(v[1])<<16 | uint32(v[2])<<8 | uint32(v[3])
	}
	if n[11] < 2 || n[11] > maxName+1 {
		return h, fmt.Errorf("name of %d bytes", n[11])
	}
	name := make([]byte, n[11])
	if _, err := io.ReadFull(c.r, name); err != nil {
		return h, err
	}
	if name[len(name)-1] != 0 {
		return h, fmt.Errorf("a name without end")
	}
	h = cpioHeader{
		file: cpioFile{n[0], n[7], n[8]}, mode: n[1], nlink: n[4], size: int64(n[6]),
		name: string(name[:len(name)-1]),
	}
	return h, c.skip(padding(cpioHeaderLen + int64(n[11])))
}

// Read reads the contents of the current file.
func (c *cpio) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *cpio) skip(n int64) error {
	if _, err := io.CopyN(io.Discard, c.r, n); err != nil {
		return fmt.Errorf("%w: cpio: %w", ErrFormat, unexpected(err))
	}
	return nil
}

func padding(n int64) int64 { return (4 - n%4) % 4 }
