// Package lab runs virtual chassis in QEMU: machines with chosen disks, memory
// and identity that boot over the network as real ones do, with their serial
// console in a file and their power in the caller's hands.
//
// Their network is one of package netns, with the DHCP, TFTP and HTTP servers
// that somebody runs there; or, without root, QEMU's user network: the chassis
// reaches the machine it runs on at 10.0.2.2 and nothing reaches the chassis.
// There QEMU's own DHCP names the boot script, QEMU's own iPXE ROM fetches it
// over HTTP.
package lab

// HostAddress is where a chassis reaches the machine that runs it.
const HostAddress = "10.0.2.2"
