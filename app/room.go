package app

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// reserve is the memory that apps leave to the machine, whatever they are given.
const reserve = 32 << 20

// room returns how many bytes can be written to dir. Where that is memory, it is not
// more than the machine has left.
func room(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("how much room is in %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	inMemory := st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
	if !inMemory {
		return free, nil
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("how much memory is free: %w", err)
	}
	available := max(meminfo(string(b), "MemAvailable:")-reserve, 0)
	if st.Blocks == 0 { // ramfs, and a tmpfs without a limit, do not tell
		return available, nil
	}
	return min(free, available), nil
}

// memoryTotal is how many bytes of memory the machine has, 0 if it does not tell.
func memoryTotal() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return meminfo(string(b), "MemTotal:")
}

// meminfo returns a value of /proc/meminfo in bytes.
func meminfo(text, key string) int64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, key); ok {
			if f := strings.Fields(v); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 53)
				return n << 10
			}
		}
	}
	return 0
}
