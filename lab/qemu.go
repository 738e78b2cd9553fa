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
	args = append(args, s.firmwareArguments()...)
	args = append(args, s.networkArguments()...)
	if s.CD != "" {
		args = append(args, "-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file="+s.CD,
			"-device", "ide-cd,drive=cd"+indexed(s.bootIndex(FromCD, 0)))
	}
	if s.Kernel != "" {
		args = append(args, "-kernel", s.Kernel, "-append", s.Append)
		if s.Initrd != "" {
			args = append(args, "-initrd", s.Initrd)
		}
	}
	return append(args, s.diskArguments()...)
}

// firmwareArguments give a UEFI chassis its firmware. The variables are its own,
// as what it was told once, a boot entry for instance, must be there next time.
func (s Spec) firmwareArguments() []string {
	if s.Firmware != UEFI {
		return nil
	}
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + uefiCode,
		"-drive", "if=pflash,unit=1,format=raw,file=" + uefiVariables,
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no", // minutes of waiting for nobody
	}
	if s.NetBoot == FirmwareHTTP {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no")
	}
	return args
}

func (s Spec) networkArguments() []string {
	netdev := "user,id=net0"
	if s.BootURL != "" {
		netdev += ",bootfile=" + s.BootURL
	}
	if s.Network != "" {
		netdev = "tap,id=net0,script=no,downscript=no,ifname=" + s.tap()
	}
	card := fmt.Sprintf("%s,netdev=net0,mac=%s", s.NIC, s.MAC)
	index := s.bootIndex(FromNetwork, 0)
	if index < 0 || s.NetBoot != IPXE {
		card += ",romfile=" // without iPXE; UEFI has a driver for virtio cards
	}
	return []string{"-netdev", netdev, "-device", card + indexed(index)}
}

func indexed(bootIndex int) string {
	if bootIndex < 0 {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", bootIndex)
}

func (s Spec) diskArguments() []string {
	var args []string
	controllers := map[string]bool{}
	for i, d := range s.Disks {
		id := fmt.Sprintf("disk%d", i)
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=raw,discard=unmap,detect-zeroes=off,cache=writeback", id, d.File))
		common := fmt.Sprintf("drive=%s,serial=%s", id, d.Serial) + indexed(s.bootIndex(FromDisk, i))
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
