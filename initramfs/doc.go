// Package initramfs builds the appliance image that a chassis boots: a kernel,
// and an initramfs in which the Teeth agent is /init and the only program.
//
// The kernel and its modules are those of Debian, or the caller's own. The
// image is two cpio archives in newc format (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst), each a zstd
// frame, in one file: first what changes with the kernel (modules, firmware,
// certificates), which is kept compressed between builds, then the agent. The
// kernel takes concatenated archives; the very last entry is the sentinel.
//
// The same input gives the same bytes, whatever the directory, umask, user or
// time of day. The manifest beside the image says what that input was.
package initramfs
