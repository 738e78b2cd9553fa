// Package blockdev is what erasing, imaging and the inventory all need to know
// of one disk: who it is, whether somebody uses it, and how to write to it past
// the page cache.
//
// Everything is read from sysfs, since a ramdisk has no udev. Every function
// also takes a plain file, which is then a disk with no identity but its size;
// tests and other programs use that.
package blockdev
