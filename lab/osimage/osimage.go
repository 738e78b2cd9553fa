// Package osimage builds the operating system image that the demo and the
// end-to-end tests deploy: a small real Debian 12 with cloud-init, GRUB for BIOS
// and an ext4 root.
//
// It is put together in a plain file, with no loop device and nothing mounted:
// mmdebstrap makes the tree, mkfs.ext4 -d turns it into a file system, and
// GRUB's boot sector and core image are written where GRUB's own installer would
// put them.
package osimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Image is a built image.
type Image struct {
	Path      string `json:"-"`          // the .raw.zst
	Recipe    string `json:"recipe"`     // digest of what it was made by
	RawSize   int64  `json:"raw_size"`   // bytes, unpacked
	RawSHA256 string `json:"raw_sha256"` // of the unpacked image
	Size      int64  `json:"size"`       // bytes, packed
	SHA256    string `json:"sha256"`     // of the packed image
}

// Build makes the image at out, a path that ends in ".raw.zst", and a
// description of it beside it (".json"). It returns at once where both are there
// and were made by this recipe. It must run as root, and needs mmdebstrap,
// sfdisk and mkfs.ext4 and Debian's archive.
func Build(ctx context.Context, out string, log *slog.Logger) (*Image, error) {
	stem, ok := strings.CutSuffix(out, ".raw.zst")
	if !ok {
		return nil, fmt.Errorf("OS image %s: the name must end in .raw.zst", out)
	}
	if img, err := cached(out, stem+".json"); err != nil || img != nil {
		return img, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("OS image %s: must be root, for the owners of its files", out)
	}
	for _, tool := range []string{"mmdebstrap", "sfdisk", "mkfs.ext4", "mformat"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("OS image %s: %w; install the Debian packages mmdebstrap, fdisk, e2fsprogs and mtools", out, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, fmt.Errorf("OS image %s: %w", out, err)
	}
	// Beside the result: a tree of half a gigabyte may be too much for /tmp.
	work, err := os.MkdirTemp(filepath.Dir(out), ".osimage-")
	if err != nil {
		return nil, fmt.Errorf("OS image %s: %w", out, err)
	}
	defer os.RemoveAll(work)
	b := builder{ctx: ctx, log: log, root: filepath.Join(work, "root"), raw: filepath.Join(work, "raw")}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"bootstrap", b.bootstrap}, {"configure", b.configure}, {"partition", b.partition},
		{"file system", b.fileSystem}, {"EFI system partition", b.systemPartition}, {"boot loader", b.bootLoader},
	} {
		start := time.Now()
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("OS image %s: %s: %w", out, step.name, err)
		}
		log.Info("OS image", "step", step.name, "seconds", time.Since(start).Round(time.Second).Seconds())
	}
	img, err := pack(ctx, b.raw, filepath.Join(work, "packed"))
	if err != nil {
		return nil, fmt.Errorf("OS image %s: pack: %w", out, err)
	}
	img.Path, img.Recipe = out, recipe()
	text, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return nil, err
	}
	// The description last: it says that the image is whole.
	if err := os.Rename(filepath.Join(work, "packed"), out); err != nil {
		return nil, fmt.Errorf("OS image: %w", err)
	}
	if err := os.WriteFile(stem+".json", append(text, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("OS image: %w", err)
	}
	log.Info("OS image", "path", out, "raw", img.RawSize, "packed", img.Size)
	return img, nil
}

// cached returns the image at out if this recipe has made it.
func cached(out, description string) (*Image, error) {
	text, err := os.ReadFile(description)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("OS image: %w", err)
	}
	img := Image{Path: out}
	if json.Unmarshal(text, &img) != nil || img.Recipe != recipe() {
		return nil, nil
	}
	st, err := os.Stat(out)
	if err != nil || st.Size() != img.Size {
		return nil, nil
	}
	return &img, nil
}

// pack compresses raw into out and takes the digests of both.
func pack(ctx context.Context, raw, out string) (*Image, error) {
	from, err := os.Open(raw)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := os.Create(out)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	packed, unpacked := sha256.New(), sha256.New()
	z, err := zstd.NewWriter(io.MultiWriter(to, packed), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(io.MultiWriter(z, unpacked), contextReader{ctx, from})
	if err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	st, err := to.Stat()
	if err != nil {
		return nil, err
	}
	return &Image{RawSize: n, RawSHA256: hex.EncodeToString(unpacked.Sum(nil)),
		Size: st.Size(), SHA256: hex.EncodeToString(packed.Sum(nil))}, to.Close()
}

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// builder holds the paths of one build.
type builder struct {
	ctx  context.Context
	log  *slog.Logger
	root string // the tree
	raw  string // the disk image
}

// run runs a command; with a root, within that tree. Its output is in the error.
func (b *builder) run(root, stdin, name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=1700000000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() == 0 {
		// mmdebstrap mounts /proc and /dev within the tree, which we delete in the end.
		// In a mount namespace of its own that can never reach the machine's.
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	if root != "" {
		cmd.Dir = "/"
	}
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // mmdebstrap cleans up
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		const most = 2000
		tail := strings.TrimSpace(string(out))
		if len(tail) > most {
			tail = "… " + tail[len(tail)-most:]
		}
		return errors.Join(fmt.Errorf("%s: %w: %s", filepath.Base(name), err, tail), b.ctx.Err())
	}
	return nil
}
