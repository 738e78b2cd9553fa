package initramfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// profile is which hardware an image serves.
type profile struct {
	modules  []string // by name or alias
	patterns []string // by path, see kmod.Tree.Select

	// firmware names Debian packages. Of these only the files that a packed
	// module asks for go into the image.
	firmware []string

	certificates bool // Debian's CA certificates, for images fetched by https
}

// Every image needs these: drivers for things that announce themselves nowhere,
// so that no modalias leads to them.
var common = []string{
	"loop", "overlay",
	"ext4", "vfat", "isofs", "squashfs", "efivarfs",
	// vfat asks for its default code page and character set at mount, ext4 for
	// a CRC32C; there is no modprobe that the kernel could call for them.
	"nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859-1",
	"crc32c_generic", "crct10dif_generic",
	"8021q",
	"ipmi_si", "ipmi_devintf", "ipmi_watchdog", "ipmi_poweroff",
}

var profiles = map[string]profile{
	// lab is what QEMU shows.
	"lab": {
		modules: slices.Concat(common, []string{
			"virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_rng", "virtio_console",
			"nvme", "ahci", "ata_piix", "sd_mod", "sr_mod",
			"e1000", "e1000e",
			"i6300esb", "iTCO_wdt", "i2c_i801", "lpc_ich",
			"qemu_fw_cfg",
		}),
	},
	// metal is every server that Debian's kernel can drive.
	"metal": {
		modules: slices.Concat(common, []string{
			"virtio_pci", "virtio_net", "virtio_blk", "virtio_console",
			"nvme", "vmd", "sd_mod", "sr_mod", "sg", "ses",
			"crc32c-intel", "crct10dif-pclmul",
			"xfs", "btrfs",
			"bonding",
			"uas", "usb_storage", "usbhid", "hid_generic", "hid_hyperv",
			"acpi_ipmi", "ipmi_ssif", "hpilo", "mei_me",
			"i2c_i801", "lpc_ich", "qemu_fw_cfg", "efi_pstore",
			"xen_netfront", "xen_blkfront", "vmxnet3", "hv_netvsc", "hv_storvsc", "hv_utils",
			"nfit", "nd_pmem", "nd_btt", "mtip32xx", "sdhci_pci", "sdhci_acpi", "mmc_block",
			"msr",
		}),
		patterns: []string{
			"kernel/drivers/net/ethernet/**",
			"kernel/drivers/net/phy/**",
			"kernel/drivers/net/mdio/**",
			"kernel/drivers/nvme/host/**",
			"kernel/drivers/ata/**",
			"kernel/drivers/scsi/**",
			"kernel/drivers/message/fusion/**",
			"kernel/drivers/usb/host/**",
			"kernel/drivers/usb/storage/**",
			"kernel/drivers/char/hw_random/**",
			"kernel/drivers/char/ipmi/**",
			"kernel/drivers/char/tpm/**",
			"kernel/drivers/watchdog/**",
			"kernel/drivers/virtio/**",
		},
		firmware: []string{
			"firmware-bnx2", "firmware-bnx2x", "firmware-cavium", "firmware-intel-misc",
			"firmware-linux-free", "firmware-marvell-prestera", "firmware-mellanox-spectrum",
			"firmware-misc-nonfree", "firmware-myricom", "firmware-netronome",
			"firmware-netxen", "firmware-qlogic", "firmware-realtek",
		},
		certificates: true,
	},
}

// Profiles returns the names that Options.Profile may have, sorted.
func Profiles() []string { return slices.Sorted(maps.Keys(profiles)) }

func profileByName(name string) (profile, error) {
	p, ok := profiles[name]
	if !ok {
		return p, fmt.Errorf("profile %q: choose one of %s", name, strings.Join(Profiles(), ", "))
	}
	return p, nil
}
