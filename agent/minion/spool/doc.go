// Package spool keeps records until somebody else has them: in memory, and beyond
// that in files of one folder, or nowhere else where no disk may be used.
//
// Records are numbered from 1 in the order of Put. A [Reader] returns them in that
// order, wherever they are; a record leaves the spool only by Ack, or when there is
// no room: then the oldest go first, and a Reader returns a [Record] that says how
// many are missing, in the place where they were. Nothing is lost without that.
//
// Put never waits for a disk. A goroutine of the spool writes records to the folder
// when half of the memory is used, or when they have waited for Options.Delay.
//
// # Files
//
// A file holds the records from the number in its name on, without gaps:
//
//	file   = "TEETHSP1" first record…    first: 8 bytes, the number of the first record
//	record = length sum data             4 bytes each; numbers are big-endian
//
// The sum is the CRC-32C of the record's number (8 bytes) and data, so that neither
// torn writes, nor zeros that a file system left, nor records out of place are taken
// for one. Files are appended to, never changed, and removed as a whole. The last
// acknowledged number is in the file "acknowledged", written at most once a second:
// after a crash a record may be read again, under its number.
//
// # What a crash costs
//
// Records that are in memory alone are lost with the process: those of the last
// Options.Delay at most, as long as the disk keeps up. What was written survives the
// process at once, and a power cut when it was synced: files are when they are
// closed, and the open one every Options.Sync. A tail that was torn is cut off when
// the spool is opened again, and reported as a missing record.
package spool
