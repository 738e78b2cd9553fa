package lab

import "fmt"

// arguments builds the command line of QEMU. The machine is "pc" with TCG:
// it is the fastest to boot where there is no usable hardware virtualisation,
// and the only one that works everywhere.
func (s Spec) arguments() []string {
	args := []string{
		"-name", s.Name, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-M", "pc,graphics=off", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", fmt.Sprint(s.CPUs), "-m", fmt.Sprintf("%dM", s.Memory>>20),
		"-uuid", s.UUID,
		"-smbios", fmt.Sprintf("type=1,manufacturer=Teeth,product=Lab Chassis,serial=%s,uuid=%s", s.Serial, s.UUID),
		"-chardev", "socket,id=console,path=console.sock,server=on,wait=off,logfile=serial.log,logappend=on",
		"-serial", "chardev:console",
		"-chardev", "socket,id=monitor,path=qmp.sock,server=on,wait=off",
		"-mon", "chardev=monitor,mode=control",
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-watchdog-action", "reset",
		"-device", "ipmi-bmc-sim,id=bmc", "-device", "isa-ipmi-kcs,bmc=bmc",
	}
	netdev := "user,id=net0"
	rom := ",romfile="
	if s.BootURL != "" {
		netdev += ",bootfile=" + s.BootURL
		rom = ",bootindex=0" // SeaBIOS goes on to the disks when the script exits
	}
	args = append(args, "-netdev", netdev, "-device", fmt.Sprintf("%s,netdev=net0,mac=%s%s", s.NIC, s.MAC, rom))
	if s.Kernel != "" {
		args = append(args, "-kernel", s.Kernel, "-append", s.Append)
		if s.Initrd != "" {
			args = append(args, "-initrd", s.Initrd)
		}
	}
	return append(args, s.diskArguments()...)
}

func (s Spec) diskArguments() []string {
	var args []string
	controllers := map[string]bool{}
	for i, d := range s.Disks {
		id := fmt.Sprintf("disk%d", i)
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=raw,discard=unmap,detect-zeroes=off,cache=writeback", id, d.File))
		common := fmt.Sprintf("drive=%s,serial=%s,bootindex=%d", id, d.Serial, i+1)
		switch d.Bus {
		case "nvme":
			args = append(args, "-device", "nvme,"+common)
		case "virtio":
			args = append(args, "-device", "virtio-blk-pci,"+common)
		case "sata":
			if !controllers["sata"] {
				args = append(args, "-device", "ich9-ahci,id=sata")
			}
			args = append(args, "-device", fmt.Sprintf("ide-hd,bus=sata.%d,%s", i, common))
		case "scsi":
			if !controllers["scsi"] {
				args = append(args, "-device", "virtio-scsi-pci,id=scsi")
			}
			args = append(args, "-device", fmt.Sprintf("scsi-hd,bus=scsi.0,%s", common))
		}
		controllers[d.Bus] = true
	}
	return args
}
