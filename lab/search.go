package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

const scanBlock = 1 << 20

// Search looks for needle in the file of a disk, from outside the chassis, and
// returns its first offset, or -1 when the disk does not hold it.
func Search(path string, needle []byte) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("search disk: %w", err)
	}
	defer f.Close()
	buf := make([]byte, len(needle)-1+scanBlock)
	kept, base := 0, int64(0) // buf[:kept] are the last bytes of the block before
	for {
		n, err := io.ReadFull(f, buf[kept:kept+scanBlock])
		if i := bytes.Index(buf[:kept+n], needle); i >= 0 {
			return base + int64(i), nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return -1, nil
		}
		if err != nil {
			return 0, fmt.Errorf("search disk %s: %w", path, err)
		}
		end := kept + n
		kept = copy(buf, buf[max(0, end-len(needle)+1):end])
		base += int64(end - kept)
	}
}

// NonZero returns the offset of a byte of the file of a disk that is not zero,
// or -1 when all are.
func NonZero(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("search disk: %w", err)
	}
	defer f.Close()
	zeros := make([]byte, scanBlock)
	buf := make([]byte, scanBlock)
	for base := int64(0); ; base += scanBlock {
		n, err := io.ReadFull(f, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			for i, b := range buf[:n] {
				if b != 0 {
					return base + int64(i), nil
				}
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return -1, nil
		}
		if err != nil {
			return 0, fmt.Errorf("search disk %s: %w", path, err)
		}
	}
}
