package initramfs

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const modulePath = "github.com/teeth-metal/teeth"

// agent returns the program that will be /init, built or given, after checking
// that it can be: static, for Linux, for the right processor.
func agent(ctx context.Context, o Options) ([]byte, AgentInfo, error) {
	file := o.Agent
	if file == "" {
		tmp, err := os.MkdirTemp("", "teeth-initramfs-")
		if err != nil {
			return nil, AgentInfo{}, err
		}
		defer os.RemoveAll(tmp)
		src, err := sourceRoot(o.SourceDir)
		if err != nil {
			return nil, AgentInfo{}, err
		}
		file = filepath.Join(tmp, "teeth-agent")
		if err := goBuild(ctx, src, o.AgentPackage, file, o.Arch, o.Version); err != nil {
			return nil, AgentInfo{}, err
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, AgentInfo{}, fmt.Errorf("read agent: %w", err)
	}
	info, err := describeAgent(b)
	if err != nil {
		return nil, AgentInfo{}, fmt.Errorf("agent %s: %w", file, err)
	}
	return b, info, nil
}

// sourceRoot finds the Teeth module that dir is in.
func sourceRoot(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for d := start; ; d = filepath.Dir(d) {
		if f, err := os.Open(filepath.Join(d, "go.mod")); err == nil {
			defer f.Close()
			for sc := bufio.NewScanner(f); sc.Scan(); {
				if w := strings.Fields(sc.Text()); len(w) == 2 && w[0] == "module" && w[1] == modulePath {
					return d, nil
				}
			}
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not in the source of %s: run there, or give an agent that is already built", start, modulePath)
		}
	}
}

// inlined are the packages whose speed counts: what every byte of a disk image
// passes through. The others, handshakes of TLS among them, are compiled without
// inlining, which makes the agent a tenth smaller in the image.
var inlined = []string{
	"runtime/...", "internal/runtime/...", "internal/bytealg", "internal/cpu", "internal/poll", "internal/sync",
	"sync/...", "bytes", "bufio", "io", "math", "math/bits", "hash/...", "compress/...",
	"crypto/aes", "crypto/cipher", "crypto/md5", "crypto/sha1", "crypto/sha256", "crypto/sha512", "crypto/subtle",
	"crypto/internal/fips140/aes/...", "crypto/internal/fips140/sha256", "crypto/internal/fips140/sha512",
	"crypto/internal/fips140/subtle", "crypto/internal/fips140/alias", "vendor/golang.org/x/crypto/...",
	"github.com/klauspost/...", "github.com/therootcompany/...",
	modulePath + "/blockdev", modulePath + "/erase", modulePath + "/imagecache",
}

// tags leave out what a ramdisk has no use for: the agent of an installed system, and
// HTTP/2, which does not make the download of an image any faster.
const tags = "ramdisk,nethttpomithttp2"

// goBuild builds a static program whose bytes depend on nothing but source and
// toolchain.
func goBuild(ctx context.Context, src, pkg, out, arch, version string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", tags,
		"-ldflags", "-s -w -buildid= -X main.version=" + version,
		"-gcflags=all=-l"}
	for _, pattern := range inlined { // the last that matches a package counts
		args = append(args, "-gcflags="+pattern+"=")
	}
	_, err := goCommand(ctx, src, arch, append(args, "-o", out, pkg)...)
	return err
}

// goEnv is the environment of a Go command that builds for arch, or for this
// machine if arch is empty. Of the caller's own it takes what does not change
// the result: proxies, caches.
func goEnv(arch string) []string {
	env := append(os.Environ(),
		// Not empty: Go takes that as unset and reads `go env -w` settings.
		"GOFLAGS=-buildvcs=false",
		"CGO_ENABLED=0", "GOAMD64=v1", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off")
	if arch == "" {
		return append(env, "GOOS=", "GOARCH=")
	}
	return append(env, "GOOS=linux", "GOARCH="+arch)
}

func goCommand(ctx context.Context, src, arch string, args ...string) (string, error) {
	return run(ctx, src, goEnv(arch), "go", args...)
}

func run(ctx context.Context, dir string, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.WaitDelay = 5 * time.Second // compilers that outlive a cancelled go build
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s %s in %s: %w: %s", filepath.Base(program), args[0], dir, err, tail(errs.String()+out.String()))
	}
	return out.String(), nil
}

// tail keeps the last lines of a program's output, where the cause is.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

func describeAgent(b []byte) (AgentInfo, error) {
	info := AgentInfo{File: fileOf("init", b), Modules: []GoModule{}}
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return info, fmt.Errorf("not a Linux program: %w", err)
	}
	if e.Machine != elf.EM_X86_64 {
		return info, fmt.Errorf("is for %s, not for amd64", e.Machine)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return info, errors.New("is linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	bi, err := buildinfo.Read(bytes.NewReader(b))
	if err != nil {
		return info, err
	}
	info.GoVersion = bi.GoVersion
	for _, m := range bi.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		info.Modules = append(info.Modules, GoModule{Path: m.Path, Version: m.Version, Sum: m.Sum})
	}
	return info, nil
}
