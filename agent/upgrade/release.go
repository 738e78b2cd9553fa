package upgrade

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// What can be upgraded.
const (
	Agent = "agent" // the program of an installed host
	Image = "image" // kernel and initramfs of the ramdisk
)

const (
	maxRelease   = 64 << 10  // bytes of what a version URL says
	maxProgram   = 256 << 20 // bytes of an agent
	maxSignature = 4 << 10
	askLimit     = 30 * time.Second
)

// ErrNotNewer is wrapped by Release.Newer's error.
var ErrNotNewer = errors.New("not newer than what runs")

// Release is what a version URL says.
type Release struct {
	Version   string `json:"latest_version"`
	MD5       string `json:"md5,omitempty"` // for originals; nothing is taken to be right by it
	URL       string `json:"download_url"`
	SHA256    string `json:"sha256"`
	Signature string `json:"signature"` // the text of minisign's file
	Size      int64  `json:"size,omitempty"`
}

// Ask fetches what a version URL says. The server is told what is asked for, in the
// query: kind and arch.
func Ask(ctx context.Context, client *http.Client, address, kind string) (Release, error) {
	var r Release
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return r, fmt.Errorf("version URL %.200q: want http://… or https://…", address)
	}
	q := u.Query()
	q.Set("kind", kind)
	q.Set("arch", runtime.GOARCH)
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return r, fmt.Errorf("version URL: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, fmt.Errorf("ask for the newest version: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRelease+1))
	switch {
	case err != nil:
		return r, fmt.Errorf("ask %s for the newest version: %w", u.Redacted(), err)
	case resp.StatusCode != http.StatusOK:
		return r, fmt.Errorf("ask %s for the newest version: %s: %.200s", u.Redacted(), resp.Status, strings.TrimSpace(string(b)))
	case len(b) > maxRelease:
		return r, fmt.Errorf("ask %s for the newest version: the answer has more than %d bytes", u.Redacted(), maxRelease)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s does not say what the newest version is: %w", u.Redacted(), err)
	}
	if err := r.check(); err != nil {
		return r, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return r, r.resolve(u)
}

// check reports what is missing or cannot be meant.
func (r Release) check() error {
	b, err := hex.DecodeString(r.SHA256)
	switch {
	case !isVersion(r.Version):
		return fmt.Errorf("latest_version %.80q: want numbers as in 1.2.3", r.Version)
	case r.URL == "":
		return fmt.Errorf("version %s has no download_url", r.Version)
	case r.Signature == "":
		return fmt.Errorf("version %s is not signed: nothing is installed without a signature", r.Version)
	case len(r.Signature) > maxSignature:
		return fmt.Errorf("version %s: a signature of %d bytes", r.Version, len(r.Signature))
	case err != nil || len(b) != 32:
		return fmt.Errorf("version %s has no sha256 of 64 hexadecimal digits", r.Version)
	case r.Size < 0 || r.Size > maxProgram:
		return fmt.Errorf("version %s: size %d: want up to %d bytes", r.Version, r.Size, maxProgram)
	}
	return nil
}

// resolve makes a download URL that is relative to the version URL absolute: a server
// need not know by which name agents reach it.
func (r *Release) resolve(base *url.URL) error {
	u, err := url.Parse(r.URL)
	if err != nil {
		return fmt.Errorf("download_url of version %s: %w", r.Version, err)
	}
	u = base.ResolveReference(u)
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("download_url of version %s: want http://… or https://…", r.Version)
	}
	r.URL = u.String()
	return nil
}

// canonical is a version as package semver has it; "" if it is none. A build as
// git-describe(1) names it, 1.2.3-4-gabcdef, comes before 1.2.3 there: it is no release.
func canonical(v string) string {
	v = "v" + strings.TrimPrefix(v, "v")
	if !semver.IsValid(v) {
		return ""
	}
	return v
}

// isVersion also keeps what is no file name out.
func isVersion(v string) bool { return canonical(v) != "" && len(v) <= 64 }

// Newer returns nil if the release is newer than a version, and an error that wraps
// ErrNotNewer if not. Anything is newer than a version that is no number, as that of a
// build from source.
func (r Release) Newer(than string) error {
	than = strings.TrimPrefix(than, "teeth-agent/")
	old := canonical(than)
	if old == "" || semver.Compare(canonical(r.Version), old) > 0 {
		return nil
	}
	return fmt.Errorf("version %s is %w, %s", r.Version, ErrNotNewer, than)
}
