package kexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Files returns the target of a kernel and its initrds in plain files, for instance
// ones that were fetched from the network. The files must stay until Load has
// returned; the caller has verified them.
func Files(kernel string, initrds []string, cmdline string) (*Target, error) {
	t := &Target{Source: "files", Title: filepath.Base(kernel), Kernel: kernel, Initrds: initrds, Cmdline: cmdline}
	var err error
	if t.kernel, err = plainFile(kernel); err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if t.kernel.size == 0 {
		return nil, errors.New("kernel: " + kernel + " is empty")
	}
	for _, name := range initrds {
		p, err := plainFile(name)
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		t.initrds = append(t.initrds, p)
	}
	return t, nil
}

func plainFile(name string) (piece, error) {
	return wholeFile(os.DirFS(filepath.Dir(name)), filepath.Base(name))
}
