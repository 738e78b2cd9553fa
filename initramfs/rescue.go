package initramfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// rescueCommands are the u-root commands of the rescue image, for a human at a
// console. The agent needs none of them. Left out are those that would add
// modules to go.mod: blkid, dd, gzip, insmod, ping, wget and a few more.
var rescueCommands = []string{
	"gosh",
	"basename", "cat", "chmod", "chroot", "cp", "date", "df", "dirname", "dmesg", "du", "echo", "false",
	"find", "free", "gpt", "grep", "head", "hexdump", "hostname", "hwclock", "id", "io", "ip", "kill",
	"ln", "losetup", "ls", "lsdrivers", "lsmod", "md5sum", "mkdir", "mknod", "more", "mount", "mv", "pci",
	"pidof", "printenv", "ps", "pwd", "readlink", "rm", "seq", "shasum", "sleep", "sort", "strings",
	"stty", "sync", "tail", "tar", "tee", "time", "timeout", "touch", "true", "umount", "uname", "uniq",
	"uptime", "wc", "which", "xargs", "yes",
}

const (
	rescuePackages = "github.com/u-root/u-root/cmds/core/"
	rescueBuilder  = "github.com/u-root/gobusybox/src/cmd/makebb"
	// The shell without its completion menus, which take more code than the
	// rest of it.
	rescueTags = "goshsmall"
)

// buildRescue makes an archive to load behind the image: bin/bb holds all
// commands, and every other name in bin leads to it.
//
// gobusybox compiles without the build cache, which takes a minute; its result
// is kept under a key that holds all of the input.
func buildRescue(ctx context.Context, o Options) ([]byte, error) {
	src, err := sourceRoot(o.SourceDir)
	if err != nil {
		return nil, err
	}
	key := sha256.New()
	goVersion, err := goCommand(ctx, src, o.Arch, "version")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(key, "%q %q %q\n", goVersion, rescueTags, rescueCommands)
	for _, name := range []string{"go.mod", "go.sum"} { // which hold the versions
		b, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(key, "%q\n", b)
	}
	dir := filepath.Join(o.CacheDir, "rescue")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%x", key.Sum(nil))
	bb, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		o.Log.Info("building u-root commands, which takes a minute", "count", len(rescueCommands))
		if bb, err = makeBusybox(ctx, src, o.Arch); err == nil {
			err = errors.Join(writeFile(dir, name, bb), prune(dir, 2))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("rescue image: %w", err)
	}
	a := newArchive()
	if _, err := a.file("bin/bb", bb, 0o755); err != nil {
		return nil, err
	}
	if err := a.symlink("bin/sh", "gosh"); err != nil {
		return nil, err
	}
	for _, c := range rescueCommands {
		if err := a.symlink("bin/"+c, "bb"); err != nil {
			return nil, err
		}
	}
	return a.compressed(ctx)
}

func makeBusybox(ctx context.Context, src, arch string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "teeth-rescue-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	// The builder runs on this machine, its result on another: GOARCH in the
	// environment counts for both, so build the builder first.
	makebb := filepath.Join(tmp, "makebb")
	if _, err := goCommand(ctx, src, "", "build", "-o", makebb, rescueBuilder); err != nil {
		return nil, err
	}
	out := filepath.Join(tmp, "bb")
	args := []string{"-o", out, "-gen-dir", filepath.Join(tmp, "src"), "-go-build-tags", rescueTags}
	for _, c := range rescueCommands {
		args = append(args, rescuePackages+c)
	}
	if _, err := run(ctx, src, goEnv(arch), makebb, args...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}
