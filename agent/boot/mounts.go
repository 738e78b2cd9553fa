package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of our fstab.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // the kernel may be without it
}

const (
	noSuid = unix.MS_NOSUID
	safe   = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// firstMounts come before all else. Every tmpfs says its size, of the memory
// there is: one without takes half of it.
var firstMounts = []mount{
	{"proc", "/proc", "proc", safe, "", false},
	{"sysfs", "/sys", "sysfs", safe, "", false},
	{"devtmpfs", "/dev", "devtmpfs", noSuid, "mode=0755", false},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666", true},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=10%", false},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=50%", false},
	{"securityfs", "/sys/kernel/security", "securityfs", safe, "", true},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe, "", true},
}

// lateMounts need modules.
var lateMounts = []mount{
	{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", safe, "", true},
	{"pstore", "/sys/fs/pstore", "pstore", safe, "", true},
}

func (m *Machine) mounts(context.Context) error     { return mountAll(firstMounts) }
func (m *Machine) lateMounts(context.Context) error { return mountAll(lateMounts) }

func mountAll(list []mount) error {
	var errs []error
	for _, m := range list {
		if err := m.do(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// do mounts, and takes it for done when it is mounted already or when an
// optional file system or its mount point does not exist here.
func (m mount) do() error {
	if !strings.HasPrefix(m.target, "/sys/") {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	switch {
	case err == nil, errors.Is(err, unix.EBUSY):
		return nil
	case m.optional && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)):
		return nil
	}
	return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
}
