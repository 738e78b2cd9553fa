package sandbox

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilityNames are those of capabilities(7), by number.
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
	SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD
	LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
	PERFMON BPF CHECKPOINT_RESTORE`)

// Capability returns the number of a capability such as CAP_SYS_RAWIO.
func Capability(name string) (uintptr, error) {
	for i, n := range capabilityNames {
		if name == "CAP_"+n {
			return uintptr(i), nil
		}
	}
	return 0, fmt.Errorf("capability %.40q is not known", name)
}

// drop makes this thread, and so what it starts, unable to gain privileges, and leaves
// programs that user 0 starts with the capabilities named only.
func drop(names []string) (keep []uintptr, err error) {
	kept := map[uintptr]bool{}
	for _, n := range names {
		c, err := Capability(n)
		if err != nil {
			return nil, err
		}
		kept[c] = true
		keep = append(keep, c)
	}
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break // beyond the last that the kernel knows
		}
		if has == 1 && !kept[c] {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return nil, fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	// Nothing is inherited beside: not what the agent may have been started with.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("clear ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&head, &data[0]); err != nil {
		return nil, fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("no new privileges: %w", err)
	}
	return keep, nil
}
