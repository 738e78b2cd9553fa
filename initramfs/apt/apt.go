// Package apt fetches packages from the Debian archive that this machine is
// configured to use, with apt doing what it is trusted for: mirrors, proxies,
// credentials and the chain of signatures.
//
// All state (sources, lists, caches) is below one directory of the caller, so
// that nothing on the system changes and no root rights are needed.
package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNotFound says that no configured archive has a package.
var ErrNotFound = errors.New("no such package")

// Package is one version of a binary package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"` // of the .deb, hex
	Size    int64  `json:"size"`   // of the .deb, in bytes

	// Depends names the packages it depends on; of alternatives the first.
	Depends []string `json:"-"`
}

// Client is apt with a state of its own.
type Client struct {
	conf string // configuration file
	arch string
}

// New prepares apt below dir for packages of the Debian architecture arch. It
// takes the archives from the system's configuration below etc, "/etc" but in
// tests, and adds components ("non-free-firmware") to them.
func New(dir, etc, arch string, components ...string) (*Client, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, "\"\n\\") {
		return nil, fmt.Errorf("cache directory %q: apt cannot use a path with quotes, backslashes or newlines", dir)
	}
	src, err := readSources(etc)
	if err != nil {
		return nil, fmt.Errorf("sources of apt: %w", err)
	}
	oneline, deb822 := src.render(components)
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "sources.list.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	// Hooks of the system (docker-clean, appstream) act on the system's caches;
	// installed packages of this machine must not steer what is chosen.
	conf := strings.ReplaceAll(`#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "3";
APT::Architecture "ARCH";
#clear APT::Architectures;
Dir::State "DIR/state";
Dir::State::lists "DIR/state/lists";
Dir::State::status "DIR/status";
Dir::Cache "DIR/cache";
Dir::Cache::archives "DIR/cache/archives";
Dir::Cache::pkgcache "DIR/cache/pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "DIR/sources.list";
Dir::Etc::sourceparts "DIR/sources.list.d";
`, "DIR", dir)
	conf = strings.ReplaceAll(conf, "ARCH", arch)
	files := map[string]string{
		"apt.conf":                     conf,
		"status":                       "",
		"sources.list":                 oneline,
		"sources.list.d/teeth.sources": deb822,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return &Client{conf: filepath.Join(dir, "apt.conf"), arch: arch}, nil
}

// Update fetches the lists of packages, as `apt-get update`.
func (c *Client) Update(ctx context.Context) error {
	// Without Error-Mode a failed fetch is a warning and exit code 0.
	_, err := c.run(ctx, "", "apt-get", "update", "-q", "--error-on=any")
	return err
}

// Show looks up the version of a package that apt would install, or returns an
// error that wraps ErrNotFound.
func (c *Client) Show(ctx context.Context, name string) (Package, error) {
	if strings.HasPrefix(name, "-") {
		return Package{}, fmt.Errorf("package %q: %w", name, ErrNotFound)
	}
	out, err := c.run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		if strings.Contains(err.Error(), "No packages found") {
			err = ErrNotFound
		}
		return Package{}, fmt.Errorf("package %s: %w", name, err)
	}
	return parseStanza(out)
}

// Download fetches the package into dir and returns the path of the .deb, whose
// SHA-256 is that of p.
func (c *Client) Download(ctx context.Context, p Package, dir string) (string, error) {
	tmp, err := os.MkdirTemp(dir, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if _, err := c.run(ctx, tmp, "apt-get", "download", "-q", p.Name+"="+p.Version); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("apt-get download %s: got %d files instead of one", p.Name, len(found))
	}
	sum, err := fileSHA256(found[0])
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("package %s %s: SHA-256 is %s, the archive's list says %s", p.Name, p.Version, sum, p.SHA256)
	}
	file := filepath.Join(dir, sum+".deb")
	return file, os.Rename(found[0], file)
}

func (c *Client) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"-c", c.conf}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets apt drop its locks
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%w: kernel and firmware come from Debian through apt", err)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, complaints(errs.String()))
	}
	return out.String(), nil
}

// complaints keeps the lines that say what went wrong.
func complaints(stderr string) string {
	var keep []string
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "Err:") {
			keep = append(keep, strings.TrimSpace(line))
		}
	}
	if len(keep) == 0 {
		return strings.TrimSpace(stderr)
	}
	return strings.Join(keep, "; ")
}

// parseStanza reads the first paragraph of `apt-cache show`, deb-control(5).
func parseStanza(s string) (Package, error) {
	var p Package
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(key) {
		case "package":
			p.Name = value
		case "version":
			p.Version = value
		case "architecture":
			p.Arch = value
		case "sha256":
			p.SHA256 = strings.ToLower(value)
		case "size":
			n, err := strconv.ParseUint(value, 10, 40)
			if err != nil {
				return p, fmt.Errorf("package %s: size: %w", p.Name, err)
			}
			p.Size = int64(n)
		case "depends", "pre-depends":
			for d := range strings.SplitSeq(value, ",") {
				if f := strings.FieldsFunc(d, func(r rune) bool { return strings.ContainsRune(" \t(|:[", r) }); len(f) > 0 {
					p.Depends = append(p.Depends, f[0])
				}
			}
		}
	}
	if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != sha256.Size || p.Name == "" || p.Version == "" {
		return p, fmt.Errorf("package %q: apt gave no name, version or SHA-256 for it", p.Name)
	}
	return p, nil
}

func fileSHA256(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
