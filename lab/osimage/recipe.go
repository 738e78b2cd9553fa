package osimage

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	suite    = "bookworm"
	fsUUID   = "6e1c2a52-6f2f-4d0e-9a30-7e7e7468aa12"
	diskGUID = "6e1c2a52-6f2f-4d0e-9a30-7e7e7468aa00"
	rawSize  = 1 << 30

	sectorSize = 512
	grubStart  = 2048 // sectors, of the BIOS boot partition
	grubSize   = 2048
	espStart   = grubStart + grubSize // EFI system partition, with GRUB for UEFI
	espSize    = 8192
	rootStart  = espStart + espSize
	rootSize   = rawSize/sectorSize - rootStart - 2048 // leaves room for the backup GPT
)

// packages beside mmdebstrap's "minbase". The cloud kernel has the drivers of
// the lab's chassis (NVMe, virtio, SCSI) and a small initrd.
var packages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "cloud-init", "cloud-guest-utils", "fdisk", "ifupdown",
	"isc-dhcp-client", "iproute2", "openssh-server", "grub-pc", "grub-efi-amd64-bin", "ca-certificates",
}

// excluded is what nobody reads on a server.
var excluded = []string{
	"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*", "/usr/share/bug/*",
}

// files are laid over the tree.
var files = map[string]string{
	"/etc/fstab":              "UUID=" + fsUUID + " / ext4 errors=remount-ro 0 1\n",
	"/etc/hostname":           "debian\n",
	"/etc/hosts":              "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
	"/etc/machine-id":         "", // made at the first boot
	"/etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
	"/etc/default/grub": `GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
`,
	// A datasource list of its own keeps cloud-init from waiting for clouds; each
	// locale that it would generate, and each RSA key, costs seconds.
	"/etc/cloud/cloud.cfg.d/90_dpkg.cfg": "datasource_list: [ConfigDrive, None]\n",
	"/etc/cloud/cloud.cfg.d/91_lab.cfg":  "locale: false\nssh_genkeytypes: [ed25519, ecdsa]\napt_preserve_sources_list: true\n",
}

// grubConfig boots the newest kernel; it lasts until the first update-grub.
const grubConfig = `# Made by Teeth; update-grub replaces it.
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
set timeout=1
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class os --id gnulinux-simple-%[1]s {
	insmod gzio
	insmod part_gpt
	insmod ext2
	search --no-floppy --fs-uuid --set=root %[1]s
	echo 'Loading Linux %[2]s ...'
	linux /boot/vmlinuz-%[2]s root=UUID=%[1]s ro console=tty0 console=ttyS0,115200
	echo 'Loading initial ramdisk ...'
	initrd /boot/initrd.img-%[2]s
}
`

//go:embed recipe.go disk.go
var sources embed.FS

// recipe is a digest of all that decides what the image holds, but for the
// state of Debian's archive: the two files that do the work.
func recipe() string {
	h := sha256.New()
	for _, name := range []string{"recipe.go", "disk.go"} {
		text, err := sources.ReadFile(name)
		if err != nil {
			panic(err) // it is in the binary, or this would not have compiled
		}
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// bootstrap makes the tree.
func (b *builder) bootstrap() error {
	args := []string{"--variant=minbase", "--format=directory", "--quiet", "--include=" + strings.Join(packages, ","),
		`--aptopt=Acquire::Languages "none"`, "--dpkgopt=force-unsafe-io"}
	for _, e := range excluded {
		args = append(args, "--dpkgopt=path-exclude="+e)
	}
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright", suite, b.root)
	return b.run("", "", "mmdebstrap", args...)
}

// configure lays files over the tree and takes out what must differ between
// machines.
func (b *builder) configure() error {
	for name, text := range files {
		path := filepath.Join(b.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"/etc/ssh/ssh_host_*", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",
		// mmdebstrap leaves the options above for good.
		"/etc/dpkg/dpkg.cfg.d/99mmdebstrap", "/etc/apt/apt.conf.d/99mmdebstrap",
		"/etc/resolv.conf", "/var/log/*.log", "/var/log/apt/*", "/var/cache/debconf/*-old", "/var/lib/apt/lists/*_*"} {
		found, err := filepath.Glob(b.root + pattern)
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	kernels, err := filepath.Glob(filepath.Join(b.root, "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(kernels) != 1 {
		return fmt.Errorf("%d kernels in /boot, expected one", len(kernels))
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if _, err := os.Stat(filepath.Join(b.root, "boot/initrd.img-"+version)); err != nil {
		return err
	}
	dir := filepath.Join(b.root, "boot/grub")
	if err := os.MkdirAll(filepath.Join(dir, "i386-pc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "grub.cfg"), fmt.Appendf(nil, grubConfig, fsUUID, version), 0o600); err != nil {
		return err
	}
	return b.coreImage()
}
