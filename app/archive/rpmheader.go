package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	rpmHeaderMagic = "\x8e\xad\xe8\x01\x00\x00\x00\x00"
	rpmIntro       = 16 // magic, number of index entries, bytes of data
	rpmIndex       = 16 // tag, type, offset, count; big-endian
	// What rpm itself takes is more; the largest header of a distribution's has some
	// ten MiB.
	maxRPMIndex = 64 << 10
	maxRPMData  = 64 << 20
)

// Types of data.
const (
	rpmInt16  = 3
	rpmInt32  = 4
	rpmInt64  = 5
	rpmString = 6
	rpmBin    = 7
	rpmArray  = 8 // of strings
	rpmI18N   = 9
)

// rpmHeader is a header structure: an index of tags and their data.
type rpmHeader struct {
	length int64 // bytes in the file
	index  map[uint32]rpmEntry
	data   []byte
}

type rpmEntry struct {
	kind, count uint32
	data        []byte // from its offset to the end of all data
}

// readRPMHeader reads the header at off of a file of size bytes.
func readRPMHeader(r io.ReaderAt, off, size int64) (*rpmHeader, error) {
	var intro [rpmIntro]byte
	if _, err := r.ReadAt(intro[:], off); err != nil {
		return nil, unexpected(err)
	}
	if string(intro[:8]) != rpmHeaderMagic {
		return nil, errors.New("bad magic")
	}
	n, length := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if n > maxRPMIndex || length > maxRPMData {
		return nil, fmt.Errorf("%d entries and %d bytes, at most %d and %d are taken", n, length, maxRPMIndex, maxRPMData)
	}
	whole := rpmIntro + int64(n)*rpmIndex + int64(length)
	if whole > size-off {
		return nil, fmt.Errorf("%d bytes, and the file ends after %d", whole, size-off)
	}
	b := make([]byte, whole-rpmIntro)
	if _, err := r.ReadAt(b, off+rpmIntro); err != nil {
		return nil, unexpected(err)
	}
	h := &rpmHeader{length: whole, index: make(map[uint32]rpmEntry, n), data: b[int(n)*rpmIndex:]}
	for i := range int(n) {
		e := b[i*rpmIndex : (i+1)*rpmIndex]
		tag, at := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[8:])
		if uint64(at) > uint64(len(h.data)) {
			return nil, fmt.Errorf("tag %d lies outside", tag)
		}
		if _, twice := h.index[tag]; twice {
			continue // the first counts, whatever is written over it
		}
		h.index[tag] = rpmEntry{binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[12:]), h.data[at:]}
	}
	return h, nil
}

// text returns the string, or the first of several, of a tag; "" without.
func (h *rpmHeader) text(tag uint32) string {
	e, ok := h.index[tag]
	if !ok || e.count == 0 || e.kind != rpmString && e.kind != rpmArray && e.kind != rpmI18N {
		return ""
	}
	end := bytes.IndexByte(e.data, 0)
	if end < 0 {
		return ""
	}
	return string(e.data[:end])
}

// number returns the first number of a tag.
func (h *rpmHeader) number(tag uint32) (int64, bool) {
	e, ok := h.index[tag]
	switch {
	case !ok || e.count == 0:
	case e.kind == rpmInt16 && len(e.data) >= 2:
		return int64(binary.BigEndian.Uint16(e.data)), true
	case e.kind == rpmInt32 && len(e.data) >= 4:
		return int64(binary.BigEndian.Uint32(e.data)), true
	case e.kind == rpmInt64 && len(e.data) >= 8:
		if n := binary.BigEndian.Uint64(e.data); n < 1<<63 {
			return int64(n), true
		}
	}
	return 0, false
}

// bytes returns the binary data of a tag; nil without.
func (h *rpmHeader) bytes(tag uint32) []byte {
	e, ok := h.index[tag]
	if !ok || e.kind != rpmBin || uint64(e.count) > uint64(len(e.data)) {
		return nil
	}
	return e.data[:e.count]
}
