package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a set of apps.
const (
	MaxApps    = 256  // in one set
	MaxText    = 4096 // bytes of a version, a URL, a file's name
	MaxNames   = 256  // services of an app, operating systems of a package
	maxAppName = 128
	minMemory  = 1 << 20 // bytes
)

// App is one app: as desired, with what it is made of, or as a status tells it,
// without URL, PkgInfo and Rank.
type App struct {
	Version string
	// URL of the package, with templates (see [ExpandURL]); or PkgInfo.
	URL     string
	PkgInfo *PkgInfo
	// Running is whether the app runs; nil: nothing is said of it. An app of several
	// services has ServiceStates instead.
	Running       *bool
	ServiceStates map[string]bool
	// Rank orders installation, ascending. On the wire it is a number or a text.
	Rank float64
	// Config is a JSON object, by convention section -> key -> value; nil: absent.
	Config json.RawMessage

	// Fields of ours.
	Digest   string          // "sha256:" and 64 hexadecimal digits: of the package
	Size     int64           // of the package in bytes; 0: not known
	Limits   *Limits         // of the running app; nil: the host's defaults
	Manifest json.RawMessage // JSON object: for packages without one; see package app

	// Extra are all other fields, of which du_config is one.
	Extra map[string]json.RawMessage
}

// PkgInfo is a package for each of several operating systems.
type PkgInfo struct {
	BaseURL       string            `json:"baseurl"`
	FilenamesByOS map[string]string `json:"filenames_by_os"` // by name, as centos_7.9.2009, or regular expression
}

// Limits bound what a running app may use. 0 is the host's default.
type Limits struct {
	Memory int64   `json:"memory,omitempty"` // bytes
	CPUs   float64 `json:"cpus,omitempty"`   // processors
	PIDs   int64   `json:"pids,omitempty"`   // processes and threads
}

// UnmarshalJSON reads an app's spec. It wants fields of the right types, and leaves
// what must be there to [CheckApps]. Errors name the field.
func (a *App) UnmarshalJSON(b []byte) error {
	fields, err := object(b)
	if err != nil {
		return invalidf("want an object with version, url and config, not %s", excerpt(b))
	}
	*a = App{}
	var rank json.RawMessage
	err = errors.Join(
		fields.take("version", &a.Version, `a text, as "1.8"`),
		fields.take("url", &a.URL, "a text"),
		fields.take("pkginfo", &a.PkgInfo, "an object with baseurl and filenames_by_os"),
		fields.take("running", &a.Running, "true or false"),
		fields.take("service_states", &a.ServiceStates, "an object of true and false by service"),
		fields.take("rank", &rank, ""),
		fields.take("digest", &a.Digest, "a text"),
		fields.take("size", &a.Size, "a number of bytes"),
		fields.take("limits", &a.Limits, "an object with memory, cpus and pids"),
	)
	if err == nil && rank != nil {
		a.Rank, err = parseRank(rank)
	}
	for name, to := range map[string]*json.RawMessage{"config": &a.Config, "manifest": &a.Manifest} {
		*to = fields.raw(name)
		if *to != nil && !isObject(*to) {
			err = errors.Join(err, fmt.Errorf("%s: want an object, not %s", name, excerpt(*to)))
		}
	}
	if err != nil {
		return invalidf("%w", first(err))
	}
	a.Extra = fields.rest()
	return nil
}

// first of several joined errors: one sentence is to be read.
func first(err error) error {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return first(several.Unwrap()[0])
	}
	return err
}

func parseRank(raw json.RawMessage) (float64, error) {
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, fmt.Errorf("rank: want a number, not %s", excerpt(raw))
	}
	return f, nil
}

// MarshalJSON writes a spec. What is not set is left out.
func (a App) MarshalJSON() ([]byte, error) {
	fields := record{}
	for name, text := range map[string]string{"version": a.Version, "url": a.URL, "digest": a.Digest} {
		if text != "" {
			fields.put(name, text)
		}
	}
	if a.PkgInfo != nil {
		fields.put("pkginfo", a.PkgInfo)
	}
	if a.Running != nil {
		fields.put("running", *a.Running)
	}
	if a.ServiceStates != nil {
		fields.put("service_states", a.ServiceStates)
	}
	if a.Rank != 0 {
		fields.put("rank", a.Rank)
	}
	if a.Config != nil {
		fields.put("config", a.Config)
	}
	if a.Size != 0 {
		fields.put("size", a.Size)
	}
	if a.Limits != nil {
		fields.put("limits", a.Limits)
	}
	if a.Manifest != nil {
		fields.put("manifest", a.Manifest)
	}
	return fields.marshal(a.Extra)
}

// ParseApps reads the data of a set_config and checks it: what it returns can be
// acted on. The error is one sentence that names the app and the field.
func ParseApps(data json.RawMessage) (map[string]App, error) {
	fields, err := object(data)
	if err != nil {
		return nil, invalidf("the apps: want an object of apps by name, not %s", excerpt(data))
	}
	if len(fields) > MaxApps {
		return nil, invalidf("%d apps, the most is %d", len(fields), MaxApps)
	}
	apps := make(map[string]App, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var a App
		if err := a.UnmarshalJSON(fields[name]); err != nil {
			return nil, fmt.Errorf("app %s: %w", printable(name), err)
		}
		apps[name] = a
	}
	return apps, CheckApps(apps)
}

// CheckApps refuses a desired set that no slave could act on. The error names the
// app and the field.
func CheckApps(apps map[string]App) error {
	if len(apps) > MaxApps {
		return invalidf("%d apps, the most is %d", len(apps), MaxApps)
	}
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		if err := CheckName(name); err != nil {
			return err
		}
		if err := apps[name].check(); err != nil {
			return invalidf("app %s: %w", name, err)
		}
	}
	return nil
}

// CheckName refuses a name that cannot be a folder's, a routing key and a package's.
func CheckName(name string) error {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && strings.IndexByte("._+-", c) >= 0:
		default:
			return invalidf("app name %q: want letters, digits and . _ + -, with a letter or digit first", printable(name))
		}
	}
	if name == "" || len(name) > maxAppName {
		return invalidf("app name %q: want 1 to %d characters", printable(name), maxAppName)
	}
	return nil
}

func (a App) check() error {
	switch {
	case a.Version == "":
		return errors.New("version is missing")
	case len(a.Version) > MaxText || printable(a.Version) != a.Version:
		return fmt.Errorf("version %q: want up to 128 printable characters", printable(a.Version))
	case a.Config == nil:
		return errors.New("config is missing: {} is an empty one")
	case !isObject(a.Config):
		return fmt.Errorf("config: want an object, not %s", excerpt(a.Config))
	case a.Manifest != nil && !isObject(a.Manifest):
		return fmt.Errorf("manifest: want an object, not %s", excerpt(a.Manifest))
	case a.URL == "" && a.PkgInfo == nil:
		return errors.New("url is missing, and there is no pkginfo")
	case a.Running != nil && a.ServiceStates != nil:
		return errors.New("it has both running and service_states: give one of them")
	case len(a.ServiceStates) > MaxNames:
		return fmt.Errorf("service_states: %d services, the most is %d", len(a.ServiceStates), MaxNames)
	case math.IsNaN(a.Rank) || math.IsInf(a.Rank, 0):
		return errors.New("rank: want a number")
	case a.Size < 0:
		return fmt.Errorf("size: %d is less than nothing", a.Size)
	case a.Digest != "" && !isDigest(a.Digest):
		return fmt.Errorf("digest %q: want sha256: and 64 hexadecimal digits", printable(a.Digest))
	}
	for s := range a.ServiceStates {
		if CheckName(s) != nil && !isUnit(s) {
			return fmt.Errorf("service_states: %q is no service's name", printable(s))
		}
	}
	if l := a.Limits; l != nil && (l.Memory < 0 || l.PIDs < 0 || !(l.CPUs >= 0 && l.CPUs < 1e6)) {
		return errors.New("limits: want numbers from 0")
	}
	if l := a.Limits; l != nil && l.Memory > 0 && l.Memory < minMemory {
		return fmt.Errorf("limits: %d bytes of memory are too few to run anything, want at least %d", l.Memory, minMemory)
	}
	if a.URL != "" {
		return checkURL(a.URL)
	}
	if len(a.PkgInfo.FilenamesByOS) == 0 || len(a.PkgInfo.FilenamesByOS) > MaxNames {
		return fmt.Errorf("pkginfo: filenames_by_os has %d files, want 1 to %d", len(a.PkgInfo.FilenamesByOS), MaxNames)
	}
	for _, file := range a.PkgInfo.FilenamesByOS {
		if file == "" || len(file) > MaxText {
			return fmt.Errorf("pkginfo: file name %q: want up to %d bytes", printable(file), MaxText)
		}
	}
	if err := checkURL(a.PkgInfo.BaseURL); err != nil {
		return fmt.Errorf("pkginfo: base%w", err) // "baseurl: …"
	}
	return nil
}

// isUnit reports whether s names a systemd unit of a template.
func isUnit(s string) bool {
	unit, instance, ok := strings.Cut(s, "@")
	return ok && CheckName(unit) == nil && (instance == "" || CheckName(instance) == nil)
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 64 {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// checkURL wants http or https. A template stands for something of unknown look.
func checkURL(raw string) error {
	if len(raw) > MaxText {
		return fmt.Errorf("url: %d bytes, the most is %d", len(raw), MaxText)
	}
	full, err := ExpandURL(raw, Variables{Host: "localhost", Protocol: "http", Port: "80"})
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	u, err := url.Parse(full)
	if err != nil {
		return errors.New("url: not shown, as it may hold a secret: want http://HOST/FILE or https://")
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		u.User, u.RawQuery, u.Fragment = nil, "", "" // they may be secrets
		return fmt.Errorf("url %q: want http://HOST/FILE or https://", printable(u.String()))
	}
	return nil
}
