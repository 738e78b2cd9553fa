// Package partition reads and edits GPT and MBR partition tables.
//
// A table may come from an untrusted image: every field is checked before it is
// used and no length is believed. Changes keep what they do not mean to change,
// and are written in an order that leaves a valid table behind after a power cut
// at any moment. Sectors of any size are supported.
package partition

import (
	"errors"
	"io"
)

// ErrNoTable is wrapped by errors about a disk without the kind of table asked
// for.
var ErrNoTable = errors.New("no partition table")

// ErrNoRoom is wrapped when a partition does not fit, or no slot is free.
var ErrNoRoom = errors.New("no room for a partition")

// Disk is what a table is written to: a disk opened for direct or buffered I/O.
// *blockdev.Device is one.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Flush() error
}

// Extent is a range of sectors; Last belongs to it.
type Extent struct{ First, Last uint64 }

// Sectors returns the length of e.
func (e Extent) Sectors() uint64 { return e.Last - e.First + 1 }

// gaps returns the runs of sectors in [first, last] that none of the used extents
// touches; used must be sorted by First.
func gaps(first, last uint64, used []Extent) []Extent {
	var free []Extent
	at := first
	if at > last {
		return nil
	}
	for _, u := range used {
		if u.First > at {
			free = append(free, Extent{at, min(u.First-1, last)})
		}
		if u.Last >= at {
			at = u.Last + 1
		}
		if at > last {
			return free
		}
	}
	return append(free, Extent{at, last})
}
