// Package ar reads what is in front of the members of an archive of ar(5), as Debian
// packages are, deb(5): names of at most 15 bytes.
package ar

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Magic begins an archive. Members follow it, each after a header of HeaderLen bytes
// and padded to an even length.
const (
	Magic     = "!<arch>\n"
	HeaderLen = 60
)

// Header reads a member's name and size from name[16] mtime[12] uid[6] gid[6] mode[8]
// size[10] "`\n".
func Header(h [HeaderLen]byte) (name string, size int64, err error) {
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("bad ar header")
	}
	n, err := strconv.ParseUint(string(bytes.TrimRight(h[48:58], " ")), 10, 40)
	if err != nil {
		return "", 0, fmt.Errorf("bad ar header: size: %w", err)
	}
	return strings.TrimSuffix(string(bytes.TrimRight(h[:16], " ")), "/"), int64(n), nil
}
