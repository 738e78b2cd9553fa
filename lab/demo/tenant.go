package demo

import (
	"bytes"
	"math/rand/v2"
	"os"
)

// secret is what no later tenant may find.
var secret = []byte("payroll of the former tenant, for no one else's eyes\n")

const (
	wholeData = 64 << 20 // at the beginning: data without holes
	stride    = 97 << 20 // behind it: a page of secrets every so many bytes
	page      = 8192
)

// formerTenant makes the file of a disk with a tenant's data on it: random bytes
// with secrets in between at the beginning, secrets all over the disk, and one
// in its very last bytes.
func formerTenant(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for off := int64(0); off < wholeData; off += int64(len(block)) {
		random.Read(block)
		copy(block[len(block)/2:], secret)
		if _, err := f.WriteAt(block, off); err != nil {
			return err
		}
	}
	secrets := bytes.Repeat(secret, page/len(secret)+1)[:page]
	for off := int64(wholeData); off < size-page; off += stride {
		if _, err := f.WriteAt(secrets, off); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(secret, size-int64(len(secret))); err != nil {
		return err
	}
	return f.Close()
}
