package bootfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// DefaultIPXEDirs are where Debian's package ipxe puts its files. The second holds
// what the first has links to.
var DefaultIPXEDirs = []string{"/usr/lib/ipxe", "/boot"}

// loaders are names that are served from every directory, appliance those that are
// served from the one where the appliance image lies. Nothing else is: /boot holds
// the kernels and initramfs of this very machine too.
var (
	loaders   = regexp.MustCompile(`^(ipxe|snp|snponly|undionly)[A-Za-z0-9_-]{0,32}\.(efi|kpxe|kkpxe|pxe|lkrn|iso)$`)
	appliance = regexp.MustCompile(`^(vmlinuz-[a-z0-9]{1,16}|teeth-(?:rescue-)?[a-z0-9]{1,16}\.(cpio\.zst|json|iso|efi)|teeth-agent-[A-Za-z0-9][A-Za-z0-9._-]{0,64}|[A-Za-z0-9][A-Za-z0-9._-]{0,64}\.(efi|kpxe|kkpxe|pxe|lkrn))$`)
)

// Dirs are the directories of what is served to machines that boot.
type Dirs struct {
	Boot string   // of the appliance image
	IPXE []string // of iPXE, in the order in which they are looked through
}

// Open opens the file with a name, which may come from the network: it is a plain
// name, or has slashes before it. Links out of a directory are not followed. A
// name that is not served is fs.ErrNotExist.
func (d Dirs) Open(name string) (*os.File, fs.FileInfo, error) {
	name = strings.TrimLeft(name, "/")
	var dirs []string
	if appliance.MatchString(name) {
		dirs = append(dirs, d.Boot)
	}
	if loaders.MatchString(name) {
		dirs = append(dirs, d.IPXE...)
	}
	var failed error
	for _, dir := range dirs {
		f, info, err := open(dir, name)
		if err == nil {
			return f, info, nil
		}
		if failed == nil || !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
	}
	if failed == nil {
		failed = fs.ErrNotExist
	}
	return nil, nil, fmt.Errorf("boot file %.80q: %w", name, failed)
}

func open(dir, name string) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	// A name of a pipe must not hold the request.
	if info, err := root.Stat(name); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, nil, fs.ErrNotExist
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, nil, errors.Join(err, fs.ErrNotExist)
	}
	return f, info, nil
}

// Has reports whether there is a file.
func (d Dirs) Has(name string) bool {
	f, _, err := d.Open(name)
	if err == nil {
		f.Close()
	}
	return err == nil
}
