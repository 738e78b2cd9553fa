package initramfs

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/teeth-metal/teeth/initramfs/apt"
)

// Manifest is what an image was made of. It is written beside the image and,
// like the image, is the same for the same input.
type Manifest struct {
	Format  int    `json:"format"` // 1
	Profile string `json:"profile"`
	Arch    string `json:"arch"`
	Version string `json:"version"` // of Teeth

	Kernel KernelInfo `json:"kernel"`
	Image  File       `json:"image"`
	Rescue *File      `json:"rescue,omitempty"`
	UKI    *File      `json:"uki,omitempty"`
	ISO    *File      `json:"iso,omitempty"`

	// Entries and Bytes count what the image holds, unpacked.
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`

	Agent AgentInfo `json:"agent"`

	Modules        []ModuleFile `json:"modules"`
	ModulesMissing []string     `json:"modules_missing"` // wanted by the profile or as a soft dependency, not in this kernel

	Firmware        []FirmwareFile    `json:"firmware"`
	FirmwareMissing []MissingFirmware `json:"firmware_missing"` // asked for by a packed module, in no package

	// Packages are the Debian packages that kernel, firmware and certificates
	// are from.
	Packages []apt.Package `json:"packages"`
}

// File is a file with its content's digest.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hex
}

// KernelInfo is the kernel image.
type KernelInfo struct {
	File
	Version        string `json:"version"`                   // uname -r
	PackageVersion string `json:"package_version,omitempty"` // of Debian, if it is theirs
}

// AgentInfo is the program that is /init, from its own build information.
type AgentInfo struct {
	File
	GoVersion string     `json:"go_version"`
	Modules   []GoModule `json:"modules"`
}

// GoModule is a Go module that is linked in.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"` // go.sum
}

// ModuleFile is a packed kernel module.
type ModuleFile struct {
	File           // name is the path below lib/modules/VERSION
	Module  string `json:"module"`
	Version string `json:"version,omitempty"`
}

// FirmwareFile is a packed firmware file.
type FirmwareFile struct {
	File           // name is the path below lib/firmware
	Package string `json:"package,omitempty"`
	Target  string `json:"target,omitempty"` // of a symbolic link, which has no content of its own
}

// MissingFirmware is what a module may ask for and will not get.
type MissingFirmware struct {
	Name    string   `json:"name"` // as in the module, may hold wildcards
	Modules []string `json:"modules"`
}

func (m *Manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// writeFile replaces dir/name in one step, readable by all whatever the umask.
func writeFile(dir, name string, content []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}
