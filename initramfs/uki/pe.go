package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Offsets and sizes of the PE/COFF specification, revision 11, for PE32+.
const (
	offPEHeader   = 0x3c // in the DOS header, of the "PE\0\0" signature
	signatureLen  = 4
	coffHeaderLen = 20
	sectionLen    = 40

	// In the COFF header.
	coffNumberOfSections = 2
	coffSizeOfOptional   = 16

	// In the optional header.
	optMagic             = 0
	optSizeOfInitialized = 8
	optSectionAlignment  = 32
	optFileAlignment     = 36
	optSizeOfImage       = 56
	optSizeOfHeaders     = 60
	optCheckSum          = 64
	optMinLen            = 112

	magicPE32Plus = 0x20b

	// IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
	readOnlyData = 0x40000040

	page = 4096
)

// section is one to append.
type section struct {
	name string // at most 8 bytes
	data []byte
}

// appendSections returns the PE32+ program with more sections, which the loader
// puts behind those that it has. What is there already keeps its place, so that
// nothing needs relocation.
func appendSections(program []byte, more []section) ([]byte, error) {
	le := binary.LittleEndian
	if len(program) < 0x40 || program[0] != 'M' || program[1] != 'Z' {
		return nil, errors.New("no DOS header")
	}
	coff := int64(le.Uint32(program[offPEHeader:])) + signatureLen
	if coff+coffHeaderLen > int64(len(program)) || string(program[coff-signatureLen:coff]) != "PE\x00\x00" {
		return nil, errors.New("no PE header")
	}
	opt := coff + coffHeaderLen
	optLen := int64(le.Uint16(program[coff+coffSizeOfOptional:]))
	count := int64(le.Uint16(program[coff+coffNumberOfSections:]))
	table := opt + optLen
	if optLen < optMinLen || table+count*sectionLen > int64(len(program)) || le.Uint16(program[opt+optMagic:]) != magicPE32Plus {
		return nil, errors.New("not a 64-bit PE program")
	}
	headers := int64(le.Uint32(program[opt+optSizeOfHeaders:]))
	if end := table + (count+int64(len(more)))*sectionLen; end > headers || headers > int64(len(program)) {
		return nil, fmt.Errorf("headers of %d bytes have no room for %d more sections", headers, len(more))
	}
	fileAlign := int64(le.Uint32(program[opt+optFileAlignment:]))
	align := int64(le.Uint32(program[opt+optSectionAlignment:]))
	for _, a := range []int64{fileAlign, align} {
		if a < 512 || a > 1<<20 || a&(a-1) != 0 {
			return nil, fmt.Errorf("alignment of %d bytes", a)
		}
	}
	// The kernel wants its image and initrd on pages of their own.
	align = max(align, page)

	memory := int64(0) // end of what is loaded
	first := headers
	for i := range count {
		h := program[table+i*sectionLen:]
		size, address, raw, at := int64(le.Uint32(h[8:])), int64(le.Uint32(h[12:])), int64(le.Uint32(h[16:])), int64(le.Uint32(h[20:]))
		memory = max(memory, address+max(size, raw))
		if raw > 0 {
			first = min(first, at)
		}
	}
	if end := table + (count+int64(len(more)))*sectionLen; end > first {
		return nil, fmt.Errorf("headers have no room for %d more sections", len(more))
	}
	out := append([]byte(nil), program...)
	initialized := int64(le.Uint32(out[opt+optSizeOfInitialized:]))
	for i, s := range more {
		if len(s.name) > 8 || len(s.data) == 0 {
			return nil, fmt.Errorf("section %q of %d bytes cannot be written", s.name, len(s.data))
		}
		memory = roundUp(memory, align)
		out = pad(out, fileAlign)
		at, raw := int64(len(out)), roundUp(int64(len(s.data)), fileAlign)
		if memory+raw > math.MaxInt32 || at+raw > math.MaxInt32 {
			return nil, fmt.Errorf("section %s makes the program larger than 2 GiB", s.name)
		}
		h := out[table+(count+int64(i))*sectionLen:][:sectionLen]
		clear(h)
		copy(h, s.name)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], uint32(memory))
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(at))
		le.PutUint32(h[36:], readOnlyData)
		out = pad(append(out, s.data...), fileAlign)
		memory += raw
		initialized += raw
	}
	le.PutUint16(out[coff+coffNumberOfSections:], uint16(count)+uint16(len(more)))
	le.PutUint32(out[opt+optSizeOfImage:], uint32(roundUp(memory, align)))
	le.PutUint32(out[opt+optSizeOfInitialized:], uint32(initialized))
	le.PutUint32(out[opt+optCheckSum:], 0)
	le.PutUint32(out[opt+optCheckSum:], checksum(out))
	return out, nil
}

// checksum is the PE checksum of a program whose checksum field is zero: the
// ones' complement sum of its 16-bit words, plus its length.
func checksum(b []byte) uint32 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i])
		if i+1 < len(b) {
			word |= uint32(b[i+1]) << 8
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	return sum + uint32(len(b))
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func pad(b []byte, to int64) []byte {
	return append(b, make([]byte, roundUp(int64(len(b)), to)-int64(len(b)))...)
}
