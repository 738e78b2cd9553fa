package partition

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a globally unique identifier in the byte order of UEFI 2.10 appendix
// A: the first three fields are little-endian.
type GUID [16]byte

// LinuxFilesystem is the type of a partition with a Linux file system.
var LinuxFilesystem = MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")

// ParseGUID reads the 36-character form of RFC 9562; case does not matter.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("GUID %.40q: want the form 01234567-89ab-cdef-0123-456789abcdef", s)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) {
		return g, fmt.Errorf("GUID %q: not hexadecimal", s)
	}
	copy(g[:], b)
	g.swap()
	return g, nil
}

// MustGUID is ParseGUID for constants: it panics on a bad one.
func MustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// NewGUID returns a random GUID (version 4).
func NewGUID() GUID {
	var g GUID
	rand.Read(g[:]) // never fails: crypto/rand ends the program instead
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	g.swap()
	return g
}

// String returns the lower-case form of RFC 9562.
func (g GUID) String() string {
	g.swap()
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero reports whether g is the type of an unused slot.
func (g GUID) IsZero() bool { return g == GUID{} }

// swap changes between big-endian and the mixed order.
func (g *GUID) swap() {
	le := binary.LittleEndian
	le.PutUint32(g[0:], binary.BigEndian.Uint32(g[0:]))
	le.PutUint16(g[4:], binary.BigEndian.Uint16(g[4:]))
	le.PutUint16(g[6:], binary.BigEndian.Uint16(g[6:]))
}
