package backup

import (
	"fmt"
	"os"
	"syscall"
)

// owner returns the user and group that a directory belongs to.
func owner(dir string) (uid, gid int, err error) {
	st, err := os.Stat(dir)
	if err != nil {
		return 0, 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("owner of %s: not known", dir)
	}
	return int(sys.Uid), int(sys.Gid), nil
}
