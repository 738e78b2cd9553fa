package backbone

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// desired is a set of apps that the host is to have. It is not changed once made.
type desired struct {
	apps     map[string]wire.App
	specs    map[string]app.Spec
	text     []byte // the apps as JSON, to compare sets by
	revision int64
	serial   int // counts the sets that were accepted
}

// resolve makes of the apps of a message what package app can act on. The error
// names the app and the field.
func (s *Slave) resolve(apps map[string]wire.App) (*desired, error) {
	d := &desired{apps: apps, specs: make(map[string]app.Spec, len(apps))}
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		spec, err := s.spec(name, apps[name])
		if err != nil {
			return nil, err
		}
		d.specs[name] = spec
	}
	var err error
	if d.text, err = json.Marshal(apps); err != nil {
		return nil, err
	}
	if len(d.text) > maxDesired {
		return nil, fmt.Errorf("the apps have %d bytes, the most is %d: a status has to hold them twice", len(d.text), maxDesired)
	}
	return d, nil
}

// maxDesired leaves room for a status that has the apps as they are and as desired.
const maxDesired = wire.MaxBody * 2 / 5

func (s *Slave) spec(name string, a wire.App) (app.Spec, error) {
	spec := app.Spec{
		Name: name, Version: a.Version, Size: a.Size, Digest: a.Digest, Config: a.Config, Manifest: a.Manifest,
		Running: a.Running != nil && *a.Running, Services: a.ServiceStates, Rank: a.Rank,
	}
	if a.Limits != nil {
		spec.Limits = limits(*a.Limits)
	}
	raw := a.URL
	if a.PkgInfo != nil && raw == "" {
		file, err := pick(a.PkgInfo.FilenamesByOS, s.c.OS)
		if err != nil {
			return spec, fmt.Errorf("app %s: pkginfo: %w", name, err)
		}
		if raw, err = url.JoinPath(a.PkgInfo.BaseURL, file); err != nil {
			return spec, fmt.Errorf("app %s: pkginfo: baseurl: %w", name, err)
		}
	}
	var err error
	if spec.URL, err = wire.ExpandURL(raw, s.c.Variables()); err != nil {
		return spec, fmt.Errorf("app %s: url: %w", name, err)
	}
	return spec, spec.Validate()
}

// pick returns the package for an operating system: by its name, else by the first
// regular expression, in their order, that its name begins with. A single package
// without a match is for this host as well as for any other: what runs in an image of
// ours is not bound to a distribution.
func pick(files map[string]string, system string) (string, error) {
	if f, ok := files[system]; ok {
		return f, nil
	}
	for _, pattern := range slices.Sorted(maps.Keys(files)) {
		re, err := regexp.Compile(`\A(?:` + pattern + `)`)
		if err == nil && re.MatchString(system) {
			return files[pattern], nil
		}
	}
	if len(files) == 1 {
		for _, f := range files {
			return f, nil
		}
	}
	return "", fmt.Errorf("none of the %d packages is for %q: name it, or give url", len(files), system)
}

// same reports whether two sets are equal but for their revision.
func (d *desired) same(other *desired) bool {
	return d != nil && other != nil && bytes.Equal(d.text, other.text)
}

// source is what an installation is made from: if it differs, the app is installed
// anew.
func source(s app.Spec) string {
	b, _ := json.Marshal([]any{s.Version, s.URL, s.Digest, s.Size, made(s)}) // texts and numbers
	return string(b)
}

// made is a digest of what an installation is made with besides the package. A State
// does not show it, so the slave remembers it.
func made(s app.Spec) string {
	if len(s.Manifest) == 0 {
		s.Manifest = nil // null
	}
	b, _ := json.Marshal([]any{s.Limits, s.Manifest}) // compact, as what was kept is
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// state is the file in which the slave keeps what it is to do.
type state struct {
	Revision int64               `json:"revision,omitempty"`
	Apps     map[string]wire.App `json:"apps"` // null: there was no set_config yet
	Made     map[string]string   `json:"made,omitempty"`
}

const stateFile = "desired_apps.json"

// load reads what was kept. A file that cannot be used is put aside: without one the
// host stays as it is until the next set_config.
func (s *Slave) load() {
	if s.c.Dir == "" {
		return
	}
	path := filepath.Join(s.c.Dir, stateFile)
	b, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var kept state
	var d *desired
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err == nil && kept.Apps != nil {
		if err = wire.CheckApps(kept.Apps); err == nil {
			d, err = s.resolve(kept.Apps)
		}
	}
	if err != nil {
		s.c.Log.Error("the desired apps that were kept cannot be used: waiting for a set_config", "file", path, "err", err)
		if err := os.Rename(path, path+".bad"); err != nil {
			s.c.Log.Warn("the bad file stays where it is", "file", path, "err", err)
		}
		return
	}
	if kept.Made != nil {
		s.made = kept.Made
	}
	if d != nil {
		s.serial++
		d.revision, d.serial = kept.Revision, s.serial
		s.want = d
	}
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > 2*wire.MaxBody {
		return nil, fmt.Errorf("%d bytes, the most is %d", info.Size(), 2*wire.MaxBody)
	}
	return os.ReadFile(path)
}

// save keeps the desired set. s.mu is held: two of them must not mix.
func (s *Slave) save() {
	if s.c.Dir == "" {
		return
	}
	kept := state{Made: s.made}
	if s.want != nil {
		kept.Revision, kept.Apps = s.want.revision, s.want.apps
	}
	b, err := json.Marshal(kept)
	if err == nil {
		err = writeAtomically(filepath.Join(s.c.Dir, stateFile), b)
	}
	if err != nil {
		s.c.Log.Error("the desired apps are not kept: they are lost when the agent starts again", "err", err)
	}
}

// writeAtomically replaces a file: after a crash it has the old content or the new.
// Only its owner may read it, as an app's configuration may hold secrets.
func writeAtomically(path string, b []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that counts is there already
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func limits(l wire.Limits) app.Limits { return app.Limits{Memory: l.Memory, PIDs: l.PIDs, CPU: l.CPUs} }
