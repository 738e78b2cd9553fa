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

// goBuild builds a static program whose bytes depend on nothing but source and
// toolchain.
func goBuild(ctx context.Context, src, pkg, out, arch, version string) error {
	ldflags := "-s -w -buildid= -X main.version=" + version
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", out, pkg)
	cmd.Dir = src
	// The caller's environment counts for proxies and caches only. GOFLAGS must
	// not be empty: Go takes that as unset and reads `go env -w` settings.
	cmd.Env = append(os.Environ(),
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1",
		"GOFLAGS=-buildvcs=false", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off", "GODEBUG=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("go build %s in %s: %w: %s", pkg, src, err, strings.TrimSpace(stderr.String()))
	}
	return nil
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
