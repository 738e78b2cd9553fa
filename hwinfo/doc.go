// Package hwinfo takes the inventory of the machine it runs on: processors,
// memory modules, disks, network interfaces, firmware versions, management
// controller and TPM.
//
// It reads /proc, sysfs and the SMBIOS tables, and asks drivers by ioctl; it
// runs no program and needs neither udev nor a PCI id database, as a ramdisk has
// none. Processors and memory come from github.com/jaypipes/ghw.
//
// Package qc compares an inventory with what a machine should be made of,
// package firmware with the versions it should have.
package hwinfo
