package rackhd

import "golang.org/x/sys/unix"

// cpuUsage is the time this process has used, in microseconds, as Node's
// process.cpuUsage has it.
func cpuUsage() object {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return object{}
	}
	return object{"user": u.Utime.Nano() / 1000, "system": u.Stime.Nano() / 1000}
}
