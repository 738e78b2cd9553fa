// Package kexec finds what a disk would boot and boots it now, without the
// minutes that firmware takes to start a server anew.
//
// Find mounts the disk's file systems read-only and looks for what its boot
// loader would start by itself: systemd-boot's entries and unified kernel
// images, GRUB's default menu entry, or Boot Loader Specification entries
// alone. Load hands that kernel, all its initrds and its command line to
// kexec_file_load(2). Exec flushes the disks, unmounts what can be written, and
// jumps. The three are separate so that a caller can report between them, and
// so that nothing is jumped into after an error: reboot instead.
//
// Nothing on the disk is trusted or executed: file systems are mounted nodev,
// nosuid, noexec and without replaying their journals, links in them cannot
// lead out, and configuration files are bounded in size and time. u-root's boot
// parsers are not used here: they read by path, so that links on the disk lead
// into the ramdisk, have no bounds, and run neither functions nor conditions of
// GRUB's language.
package kexec
