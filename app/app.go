package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/teeth-metal/teeth/app/manifest"
)

// ErrNotInstalled is wrapped by errors about an app that is not there.
var ErrNotInstalled = errors.New("app is not installed")

// ErrNoRoom is wrapped by errors about a package that does not fit.
var ErrNoRoom = errors.New("not enough room for the app")

// ErrNothingToRun is wrapped when an app that has no service is to run.
var ErrNothingToRun = errors.New("app has nothing to run")

// Spec is what an app should be.
type Spec struct {
	Name    string // letters, digits and . _ + -, at most 64
	Version string // as the master calls it; not compared with the package's own
	URL     string // of the package, http or https
	Size    int64  // bytes of the package, 0 unknown
	// Digest of the package, "sha256:" or "sha512:" and hexadecimal digits. Without
	// it the package is only as trustworthy as the way it came.
	Digest string
	// Config is a JSON object; empty means {}.
	Config json.RawMessage
	// Running is whether all services should run. Services, unless it is nil, says
	// so for each by name instead; those not named stay as they are, and stopped
	// when the app is new.
	Running  bool
	Services map[string]bool
	// Rank is the order in which a caller installs apps; not used here.
	Rank float64
	// Limits take the place of those of the manifest, one by one.
	Limits Limits
	// Manifest, a JSON object, takes the place of the package's own.
	Manifest json.RawMessage
}

// Limits of all processes of an app together. 0 means no limit of its own: then that
// of the manifest counts, else that of Options.
type Limits = manifest.Limits

// State is what an app is.
type State struct {
	Name    string
	Version string // of the Spec it was installed with
	URL     string
	Digest  string // of the package as it was fetched
	// Config is what the app's config program says, else what was set last.
	Config json.RawMessage
	// ConfigSet is what was set last. A config program may tell more, or otherwise.
	ConfigSet json.RawMessage
	// Running is whether all services run; false for an app without any.
	Running  bool
	Services map[string]bool
	// ExitCode is of the service that ended last, 128 and the signal's number for one
	// that a signal ended; nil if none has.
	ExitCode *int
	Restarts int // of all services since they were started by Set
	// Error says what is wrong with the app, for people; empty if nothing is.
	Error string
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

const maxVersion = 256

// Validate returns an error that says what to mend, unless s can be installed.
func (s Spec) Validate() error {
	switch {
	case !nameRE.MatchString(s.Name):
		return fmt.Errorf("app name %.80q: want letters, digits and . _ + -, at most 64", s.Name)
	case s.Version == "" || len(s.Version) > maxVersion:
		return fmt.Errorf("app %s: version of %d bytes: want 1 to %d", s.Name, len(s.Version), maxVersion)
	case s.Size < 0:
		return fmt.Errorf("app %s: size is %d", s.Name, s.Size)
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("app %s: its URL is not one of http or https", s.Name) // it may hold a secret
	}
	if strings.Contains(s.URL, "%(") {
		return fmt.Errorf("app %s: its URL has a template that nobody expanded", s.Name)
	}
	if _, err := s.hashes(); err != nil {
		return err
	}
	if _, err := s.config(); err != nil {
		return err
	}
	if err := s.Limits.Validate(); err != nil {
		return fmt.Errorf("app %s: %w", s.Name, err)
	}
	if len(s.Manifest) > 0 {
		if _, err := manifest.Parse(s.Manifest); err != nil {
			return fmt.Errorf("app %s: %w", s.Name, err)
		}
	}
	return nil
}

// hashes returns the digest as package imagecache wants it.
func (s Spec) hashes() (map[string]string, error) {
	if s.Digest == "" {
		return nil, nil
	}
	algorithm, sum, ok := strings.Cut(s.Digest, ":")
	digits := map[string]int{"sha256": 64, "sha512": 128}[strings.ToLower(algorithm)]
	if !ok || digits == 0 || len(sum) != digits || strings.Trim(sum, "0123456789abcdefABCDEF") != "" {
		return nil, fmt.Errorf("app %s: digest %.20q…: want sha256: and 64, or sha512: and 128 hexadecimal digits", s.Name, s.Digest)
	}
	return map[string]string{strings.ToLower(algorithm): strings.ToLower(sum)}, nil
}

const maxConfig = 1 << 20

// config returns the configuration in compact form.
func (s Spec) config() (json.RawMessage, error) {
	c, err := compactObject(s.Config)
	if err != nil {
		return nil, fmt.Errorf("app %s: config: %w", s.Name, err)
	}
	return c, nil
}

func compactObject(b json.RawMessage) (json.RawMessage, error) {
	if len(b) == 0 {
		return json.RawMessage("{}"), nil
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(b), maxConfig)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	if m == nil {
		return nil, errors.New("want a JSON object, got null")
	}
	return json.Marshal(m)
}
