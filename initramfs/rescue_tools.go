//go:build tools

package initramfs

// What the rescue image is built from and no package imports: `go mod tidy`
// keeps it in go.mod for these lines.
import (
	_ "github.com/u-root/gobusybox/src/pkg/bb"
	_ "mvdan.cc/sh/v3/interp"
	_ "mvdan.cc/sh/v3/syntax"
)
