package partition

import (
	"encoding/binary"
	"hash/crc32"
)

// seal makes the checksums of the primary table in b match its contents.
func seal(b []byte) {
	h := b[512:1024]
	le := binary.LittleEndian
	at, n := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if at < uint64(len(b))/512 && n <= uint64(len(b))-at*512 {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[at*512:at*512+n]))
	}
	if size := le.Uint32(h[12:]); size >= gptHeaderSize && size <= 512 {
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	}
}
