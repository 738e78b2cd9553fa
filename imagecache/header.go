package imagecache

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	// A partition begins with two copies of the header, written in turn, so that
	// a power cut spoils the older one at most. The file follows.
	headerCopy  = 2048
	headerSize  = 2 * headerCopy
	headerMagic = "TEETHIMG"
	// 8 bytes magic, 8 sequence number, 4 length of the JSON, 4 CRC-32 (IEEE) of
	// the sequence number, the length and the JSON, all little-endian.
	headerFixed = 24
)

// decodeHeader reads one copy of a header.
func decodeHeader(b []byte) (Entry, uint64, error) {
	le := binary.LittleEndian
	if len(b) < headerFixed || string(b[:8]) != headerMagic {
		return Entry{}, 0, errors.New("image cache: no header")
	}
	seq, n := le.Uint64(b[8:]), le.Uint32(b[16:])
	if int64(n) > int64(len(b)-headerFixed) {
		return Entry{}, 0, fmt.Errorf("image cache: header of %d bytes", n)
	}
	text := b[headerFixed : headerFixed+n]
	if crc32.Update(crc32.ChecksumIEEE(b[8:20]), crc32.IEEETable, text) != le.Uint32(b[20:]) {
		return Entry{}, 0, errors.New("image cache: header has a wrong checksum")
	}
	e, err := parseRecord(text)
	return e, seq, err
}

// encodeHeader makes one copy of a header.
func encodeHeader(r record, seq uint64) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("image cache: header: %w", err)
	}
	if len(text) > headerCopy-headerFixed {
		r.Name = "" // each of its bytes can take six in JSON
		if text, err = json.Marshal(r); err != nil || len(text) > headerCopy-headerFixed {
			return nil, fmt.Errorf("image cache: header of %d bytes: %w", len(text), err)
		}
	}
	b := make([]byte, headerCopy)
	copy(b, headerMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], seq)
	le.PutUint32(b[16:], uint32(len(text)))
	copy(b[headerFixed:], text)
	le.PutUint32(b[20:], crc32.Update(crc32.ChecksumIEEE(b[8:20]), crc32.IEEETable, text))
	return b, nil
}
