package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// MaxRecord is the most bytes a record may have: a frame of the protocol, and room
// for what its owner keeps beside it.
const MaxRecord = 68 << 10

// Sizes in bytes.
const (
	recordHead = 4 + 4
	fileHead   = len(magic) + 8
)

const magic = "TEETHSP1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errBroken is a record that is not whole, or not the one that was written there.
var errBroken = errors.New("broken record")

func sum(seq uint64, data []byte) uint32 {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], seq)
	return crc32.Update(crc32.Update(0, castagnoli, n[:]), castagnoli, data)
}

// appendRecord appends the record with that number.
func appendRecord(b []byte, seq uint64, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	b = binary.BigEndian.AppendUint32(b, sum(seq, data))
	return append(b, data...)
}

// cutRecord returns the data of the record that b begins with, and the bytes the
// record has. When b ends too early, size is how many bytes are needed to go on,
// and data is nil.
func cutRecord(b []byte, seq uint64) (data []byte, size int, err error) {
	if len(b) < recordHead {
		return nil, recordHead, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > MaxRecord {
		return nil, 0, fmt.Errorf("%w: record %d has a length of %d bytes", errBroken, seq, n)
	}
	size = recordHead + int(n)
	if len(b) < size {
		return nil, size, nil
	}
	data = b[recordHead:size:size]
	if binary.BigEndian.Uint32(b[4:]) != sum(seq, data) {
		return nil, 0, fmt.Errorf("%w: the checksum of record %d is not that of its data", errBroken, seq)
	}
	return data, size, nil
}

func appendFileHead(b []byte, first uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, magic...), first)
}

// checkFileHead reports whether b begins a file whose first record has that number.
func checkFileHead(b []byte, first uint64) error {
	if len(b) < fileHead || string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: it does not begin as a file of a spool does", errBroken)
	}
	if n := binary.BigEndian.Uint64(b[len(magic):]); n != first {
		return fmt.Errorf("%w: it says that it begins with record %d, its name says %d", errBroken, n, first)
	}
	return nil
}
