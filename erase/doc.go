// Package erase makes everything on a disk unrecoverable through its normal
// interface, and proves it by reading the disk back.
//
// What it does is Clear in the terms of NIST SP 800-88: every logical block is
// made zero, by the disk's own command or by writing, then read past all caches
// and compared. Blocks a disk has retired or keeps in reserve are out of its
// reach; those take a Purge (sanitize, cryptographic erase).
//
// The result is never in doubt: Disk returns nil only when every byte was made
// zero and the read-back agreed. A disk whose erasure did not end so must stay
// out of service.
package erase
