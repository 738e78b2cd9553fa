// Package initramfs builds the appliance image that a chassis boots: a kernel,
// and an initramfs in which the Teeth agent is /init and the only program.
//
// The kernel and its modules are those of Debian, or the caller's own. The
// image is three cpio archives in newc format (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst), each a zstd
// frame, in one file, as the kernel takes them: the agent; modules, firmware
// and certificates, which change only with the kernel and are kept compressed
// between builds; the sentinel, by which the agent knows that all is there.
//
// The same input gives the same bytes, whatever the directory, umask, user or
// time of day. The manifest beside the image says what that input was.
package initramfs
