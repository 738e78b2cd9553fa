// Package sentinel is the last file of an appliance image, by which the agent
// knows at boot that the kernel unpacked all of it.
//
// The kernel unpacks an initramfs into a tmpfs that may take half of the
// memory. When that runs out it prints one line and boots on with half a tree.
// The builder therefore writes Name as the very last entry of the image: if it
// is there and whole, so is everything before it.
package sentinel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Name is the path of the sentinel inside the image.
const Name = ".teeth-image-complete"

const (
	format  = "teeth-image v1"
	maxSize = 256 // bytes read at most: a sentinel is one short line
)

// ErrTruncated says that the image was not unpacked to its end, which almost
// always means too little memory for it.
var ErrTruncated = errors.New("appliance image is incomplete: the kernel did not unpack all of it; give the machine more memory, or boot a smaller image")

// Counts is what the builder put before the sentinel.
type Counts struct {
	Entries int   // records of the archive: files, directories, links, devices
	Bytes   int64 // content of the regular files
}

// String returns the content of the sentinel file.
func (c Counts) String() string {
	return fmt.Sprintf("%s %d %d\n", format, c.Entries, c.Bytes)
}

// Parse reads the content of a sentinel file.
func Parse(content string) (Counts, error) {
	var c Counts
	line, ok := strings.CutSuffix(content, "\n")
	if !ok {
		return c, fmt.Errorf("sentinel %q does not end in a newline: %w", content, ErrTruncated)
	}
	rest, ok := strings.CutPrefix(line, format+" ")
	if !ok {
		return c, fmt.Errorf("sentinel %q is not of the form %q", line, format+" ENTRIES BYTES")
	}
	entries, bytes, ok := strings.Cut(rest, " ")
	if !ok {
		return c, fmt.Errorf("sentinel %q has no byte count", line)
	}
	n, err := strconv.ParseUint(entries, 10, 31)
	if err != nil {
		return c, fmt.Errorf("sentinel %q: entries: %w", line, err)
	}
	b, err := strconv.ParseUint(bytes, 10, 63)
	if err != nil {
		return c, fmt.Errorf("sentinel %q: bytes: %w", line, err)
	}
	return Counts{Entries: int(n), Bytes: int64(b)}, nil
}

// Check reads the sentinel below root ("/" in the booted image). A missing or
// cut one is an error that wraps ErrTruncated.
func Check(root string) (Counts, error) {
	f, err := os.Open(filepath.Join(root, Name))
	if errors.Is(err, fs.ErrNotExist) {
		return Counts{}, fmt.Errorf("%s is missing: %w", Name, ErrTruncated)
	}
	if err != nil {
		return Counts{}, fmt.Errorf("read sentinel: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return Counts{}, fmt.Errorf("read sentinel: %w", err)
	}
	return Parse(string(b))
}
