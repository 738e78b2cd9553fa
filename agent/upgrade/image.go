package upgrade

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/kexec"
)

const (
	maxDescription = 1 << 20
	maxPart        = 1 << 30 // bytes of a kernel or an initramfs
	maxScript      = 64 << 10
)

// Stager fetches the newest ramdisk and hands it to the kernel.
type Stager struct {
	URL     string // the version URL
	Key     Key    // that releases must be signed by
	Version string // of the agent that runs
	Client  *http.Client
	Dir     string // for the time of it, in memory; made and removed
	Cmdline string // of the next kernel; a one-time token in it is replaced
	MAC     string // of the boot NIC, and the chassis' UUID: for a new token
	UUID    string
	Log     *slog.Logger

	load func(ctx context.Context, kernel, initrd, cmdline string) error // tests
}

// description is what `teeth initramfs build` writes, as far as it matters here.
type description struct {
	Arch   string `json:"arch"`
	Kernel part   `json:"kernel"`
	Image  part   `json:"image"`
}

type part struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// partName is a name beside the description, and nothing else.
var partName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func (p part) check(what string) error {
	b, err := hex.DecodeString(p.SHA256)
	switch {
	case !partName.MatchString(p.Name):
		return fmt.Errorf("name of the %s: %.80q: want a plain file name", what, p.Name)
	case err != nil || len(b) != 32:
		return fmt.Errorf("%s %s has no sha256 of 64 hexadecimal digits", what, p.Name)
	case p.Size < 1 || p.Size > maxPart:
		return fmt.Errorf("%s %s: size %d: want 1 to %d bytes", what, p.Name, p.Size, maxPart)
	}
	return nil
}

// Stage loads the newest ramdisk, so that kexec.Exec starts it. An error that wraps
// ErrNotNewer says that there is nothing to do. After an error nothing is loaded.
func (s *Stager) Stage(ctx context.Context, force bool) (Release, error) {
	if s.Client == nil {
		s.Client = http.DefaultClient
	}
	ctx, cancel := context.WithTimeout(ctx, getTime)
	defer cancel()
	r, err := Ask(ctx, s.Client, s.URL, Image)
	if err != nil {
		return r, err
	}
	if err := r.Newer(s.Version); err != nil && !force {
		return r, err
	}
	if err := s.stage(ctx, r); err != nil {
		return r, fmt.Errorf("ramdisk %s: %w", r.Version, err)
	}
	return r, nil
}

func (s *Stager) stage(ctx context.Context, r Release) error {
	cmdline, err := s.nextCmdline(ctx)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(s.Dir)
	d, err := s.describe(ctx, r)
	if err != nil {
		return err
	}
	base, err := url.Parse(r.URL)
	if err != nil {
		return err
	}
	var paths []string
	for _, p := range []part{d.Kernel, d.Image} {
		from := base.ResolveReference(&url.URL{Path: p.Name})
		path := filepath.Join(s.Dir, p.Name)
		if err := s.get(ctx, from.String(), p.SHA256, p.Size, path); err != nil {
			return err
		}
		paths = append(paths, path)
	}
	load := s.load
	if load == nil {
		load = loadFiles
	}
	s.Log.Info("ramdisk fetched and verified", "version", r.Version)
	return load(ctx, paths[0], paths[1], cmdline)
}

func loadFiles(ctx context.Context, kernel, initrd, cmdline string) error {
	t, err := kexec.Files(kernel, []string{initrd}, cmdline)
	if err != nil {
		return err
	}
	return errors.Join(t.Load(ctx), t.Close())
}

// describe fetches the signed description.
func (s *Stager) describe(ctx context.Context, r Release) (description, error) {
	var d description
	path := filepath.Join(s.Dir, "description.json")
	if r.Size > maxDescription {
		return d, fmt.Errorf("a description of %d bytes; at most %d are read", r.Size, maxDescription)
	}
	if err := s.get(ctx, r.URL, r.SHA256, r.Size, path); err != nil {
		return d, err
	}
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	if err := s.Key.Verify(r, Image, f); err != nil {
		return d, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("its description makes no sense: %w", err)
	}
	if d.Arch != runtime.GOARCH {
		return d, fmt.Errorf("it is for %.40q, and this machine is %s", d.Arch, runtime.GOARCH)
	}
	if d.Kernel.Name == d.Image.Name {
		return d, fmt.Errorf("kernel and initramfs are both called %.80q", d.Kernel.Name)
	}
	return d, errors.Join(d.Kernel.check("kernel"), d.Image.check("initramfs"))
}

// get fetches a file that has a digest.
func (s *Stager) get(ctx context.Context, from, sha256 string, size int64, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	object := imagecache.Object{Name: filepath.Base(path), URLs: []string{from}, Hashes: map[string]string{"sha256": sha256}, Size: size}
	_, err = imagecache.Fetcher{Client: s.Client, MaxSize: maxDescription, Attempts: 4}.Get(ctx, object, f, nil)
	return errors.Join(err, f.Close())
}

// tokenArg is the parameter that admits a chassis, once.
const tokenArg = "teeth.token="

// tokenValue is what a token may look like on a command line that is to be booted.
var tokenValue = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{1,512}$`)

// nextCmdline is the command line of the next kernel. The token of this boot admits no
// other one. A new one is in the boot script, which lies beside the version URL of
// `teeth serve`; nothing else is taken from there, as anybody on the network may have
// written it.
func (s *Stager) nextCmdline(ctx context.Context) (string, error) {
	words := strings.Fields(s.Cmdline)
	at := -1
	for i, w := range words {
		if strings.HasPrefix(w, tokenArg) {
			at = i
		}
	}
	if at < 0 {
		return s.Cmdline, nil
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", err
	}
	u = u.ResolveReference(&url.URL{Path: "/boot/ipxe", RawQuery: url.Values{"mac": {s.MAC}, "uuid": {s.UUID}}.Encode()})
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for a token of the next boot: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxScript))
	if err != nil {
		return "", fmt.Errorf("ask for a token of the next boot: %w", err)
	}
	for w := range strings.FieldsSeq(string(b)) {
		if token, ok := strings.CutPrefix(w, tokenArg); ok && tokenValue.MatchString(token) {
			words[at] = tokenArg + token
			return strings.Join(words, " "), nil
		}
	}
	return "", fmt.Errorf("the boot script of %s has no token for the next boot (%s): would the chassis boot its disk?", u.Host, resp.Status)
}
