// Package manifest reads what an app says about itself: its services, how it is
// configured, and what of the machine it needs.
//
// A manifest is a file teeth-app.yaml (or .yml, .json) at the root of a package:
//
//	services:
//	  exporter:
//	    command: [/usr/bin/exporter, --listen, ":9100"]
//	    env: {GOGC: "50"}
//	config:
//	  path: /etc/exporter.ini
//	  format: ini
//	devices: [/dev/ipmi0, /dev/sg*]
//	capabilities: [CAP_SYS_RAWIO]
//	limits: {memory: 64MiB, pids: 32, cpu: 0.5}
//
// Units of systemd and scripts of /etc/init.d are read into the same form.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Names are where in a package a manifest may be, and in /opt/pf9/APP, too.
var Names = []string{"teeth-app.yaml", "teeth-app.yml", "teeth-app.json"}

// MaxSize bounds a manifest, in bytes.
const MaxSize = 64 << 10

// Bounds of what a manifest may list.
const (
	maxServices = 32
	maxWords    = 256
	maxText     = 8 << 10 // bytes of a word or a variable
	maxDevices  = 64
)

// Manifest is what an app needs.
type Manifest struct {
	Services map[string]Service `yaml:"services"`
	// Config says how the app's configuration reaches it; nil is not at all, unless
	// the package has the program /opt/pf9/APP/config.
	Config *Config `yaml:"config"`
	// Devices are paths below /dev that the app sees, beside null, zero, full,
	// random, urandom and tty. A last element with * ? or [ means all that match;
	// one without must be there.
	Devices []string `yaml:"devices"`
	// Capabilities that processes keep, as in capabilities(7); none without.
	Capabilities []string `yaml:"capabilities"`
	Limits       Limits   `yaml:"limits"`
	// Root is what the app sees as /: AppRoot ("app", the default) or HostRoot
	// ("host").
	Root string `yaml:"root"`
	// WritableSys leaves /sys writable, which tools that flash firmware need.
	WritableSys bool `yaml:"writable_sys"`
}

// Values of Manifest.Root. With HostRoot the machine's /bin, /etc, /lib, /lib64,
// /opt, /sbin and /usr are there read-only, below what the package has of them.
const (
	AppRoot  = "app"
	HostRoot = "host"
)

// Service is one program that an app runs.
type Service struct {
	Command []string          `yaml:"command"` // the program, absolute or in PATH, and its arguments
	Env     map[string]string `yaml:"env"`
	// EnvFiles are files of variables, as systemd's EnvironmentFile; a leading "-"
	// lets one be missing.
	EnvFiles []string `yaml:"env_files"`
	Dir      string   `yaml:"dir"`  // working directory; "/" if empty
	User     string   `yaml:"user"` // "UID" or "UID:GID"; 0 if empty
	// Restart is Always (the default), OnFailure or Never. A service that ended and
	// is not to be started again counts as running if it ended well, and is not
	// started again unless it is switched off and on, or changed, if it did not.
	Restart Restart `yaml:"restart"`
	// StopSignal is sent first, SIGTERM if empty; SIGKILL follows after StopTimeout,
	// 10 s if 0.
	StopSignal  Signal   `yaml:"stop_signal"`
	StopTimeout Duration `yaml:"stop_timeout"`
	// ReloadSignal is sent when the configuration has changed; without it the
	// service is restarted.
	ReloadSignal Signal `yaml:"reload_signal"`
	// Forking is for a program that ends when its daemon is up: the service is
	// running as long as any process of it is.
	Forking bool `yaml:"forking"`
	// Expand replaces $NAME and ${NAME} in arguments by variables, as systemd does.
	Expand bool `yaml:"expand"`
}

// Restart is when a service that ended is started again.
type Restart string

// Values of Restart.
const (
	Always    Restart = "always"
	OnFailure Restart = "on-failure"
	Never     Restart = "never"
)

// Config is a file that an app reads its configuration from.
type Config struct {
	Path   string `yaml:"path"`   // absolute, in the app's root
	Format Format `yaml:"format"` // JSON, INI or Env
}

// Format is how a configuration is written to a file.
type Format string

// Values of Format.
const (
	JSON Format = "json"
	INI  Format = "ini"
	Env  Format = "env"
)

// Limits of all processes of an app together; 0 is no limit.
type Limits struct {
	Memory int64   `yaml:"memory" json:"memory,omitempty"` // bytes; a manifest may say 64MiB
	PIDs   int64   `yaml:"pids" json:"pids,omitempty"`     // processes and threads
	CPU    float64 `yaml:"cpu" json:"cpu,omitempty"`       // processors: 0.5 is half of one
}

// Limits of limits: what is less cannot run anything, what is more is a mistake.
const (
	minMemory = 1 << 20
	minPIDs   = 4 // the namespace's first process has some threads
	minCPU    = 0.01
	maxCPU    = 4096
)

// Validate returns an error that says what to mend.
func (l Limits) Validate() error {
	switch {
	case l.Memory != 0 && l.Memory < minMemory:
		return fmt.Errorf("limit of memory is %d bytes: want at least %d", l.Memory, minMemory)
	case l.PIDs != 0 && l.PIDs < minPIDs:
		return fmt.Errorf("limit of pids is %d: want at least %d", l.PIDs, minPIDs)
	case l.CPU != 0 && !(l.CPU >= minCPU && l.CPU <= maxCPU):
		return fmt.Errorf("limit of cpu is %g: want %g to %d", l.CPU, minCPU, maxCPU)
	}
	return nil
}

// Or returns l with the limits of o where it has none.
func (l Limits) Or(o Limits) Limits {
	if l.Memory == 0 {
		l.Memory = o.Memory
	}
	if l.PIDs == 0 {
		l.PIDs = o.PIDs
	}
	if l.CPU == 0 {
		l.CPU = o.CPU
	}
	return l
}

// Parse reads a manifest, YAML or JSON, and checks it.
func Parse(b []byte) (*Manifest, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("manifest of %d bytes, at most %d are taken", len(b), MaxSize)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var m Manifest
	if err := d.Decode(&m); err != nil && err != io.EOF {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("manifest: more than one document")
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}

// Marshal writes the manifest in the form that Parse reads.
func (m *Manifest) Marshal() ([]byte, error) { return yaml.Marshal(m) }

var (
	serviceRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,63}$`)
	userRE    = regexp.MustCompile(`^[0-9]{1,9}(:[0-9]{1,9})?$`)
	capRE     = regexp.MustCompile(`^CAP_[A-Z_]{1,32}$`)
)

func (m *Manifest) check() error {
	switch {
	case len(m.Services) > maxServices:
		return fmt.Errorf("%d services, at most %d are taken", len(m.Services), maxServices)
	case len(m.Devices) > maxDevices:
		return fmt.Errorf("%d devices, at most %d are taken", len(m.Devices), maxDevices)
	case m.Root != "" && m.Root != AppRoot && m.Root != HostRoot:
		return fmt.Errorf("root %.20q: want app or host", m.Root)
	}
	for name, s := range m.Services {
		if !serviceRE.MatchString(name) {
			return fmt.Errorf("service name %.80q: want letters, digits and . _ @ : + -, at most 64", name)
		}
		if err := s.check(); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	for _, d := range m.Devices {
		if err := checkDevice(d); err != nil {
			return err
		}
	}
	for _, c := range m.Capabilities {
		if !capRE.MatchString(c) {
			return fmt.Errorf("capability %.40q: want a name such as CAP_SYS_RAWIO", c)
		}
	}
	if c := m.Config; c != nil {
		if err := cleanPath(c.Path); err != nil {
			return fmt.Errorf("config path: %w", err)
		}
		if c.Format != JSON && c.Format != INI && c.Format != Env {
			return fmt.Errorf("config format %.20q: want json, ini or env", c.Format)
		}
	}
	return m.Limits.Validate()
}

func (s Service) check() error {
	if len(s.Command) == 0 || s.Command[0] == "" {
		return errors.New("no command")
	}
	if len(s.Command) > maxWords || len(s.Env) > maxWords || len(s.EnvFiles) > maxWords {
		return fmt.Errorf("more than %d arguments or variables", maxWords)
	}
	for _, w := range s.Command {
		if len(w) > maxText || strings.ContainsRune(w, 0) {
			return fmt.Errorf("an argument has more than %d bytes, or a NUL", maxText)
		}
	}
	for k, v := range s.Env {
		if !variableRE.MatchString(k) || len(v) > maxText || strings.ContainsRune(v, 0) {
			return fmt.Errorf("variable %.80q: not a name, or more than %d bytes, or a NUL", k, maxText)
		}
	}
	for _, f := range s.EnvFiles {
		if err := cleanPath(strings.TrimPrefix(f, "-")); err != nil {
			return fmt.Errorf("env file: %w", err)
		}
	}
	if s.Dir != "" {
		if err := cleanPath(s.Dir); err != nil {
			return fmt.Errorf("dir: %w", err)
		}
	}
	if s.User != "" && !userRE.MatchString(s.User) {
		return fmt.Errorf("user %.40q: want UID or UID:GID in digits", s.User)
	}
	switch s.Restart {
	case "", Always, OnFailure, Never:
	default:
		return fmt.Errorf("restart %.20q: want always, on-failure or never", s.Restart)
	}
	if s.StopTimeout < 0 || time.Duration(s.StopTimeout) > 10*time.Minute {
		return fmt.Errorf("stop_timeout is %s: want at most 10m", time.Duration(s.StopTimeout))
	}
	return nil
}

func checkDevice(d string) error {
	if err := cleanPath(d); err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if !strings.HasPrefix(d, "/dev/") || strings.ContainsAny(path.Dir(d), "*?[\\") {
		return fmt.Errorf("device %.80q: want a path below /dev, with * ? [ in its last element only", d)
	}
	if _, err := path.Match(path.Base(d), ""); err != nil {
		return fmt.Errorf("device %.80q: %w", d, err)
	}
	return nil
}

// cleanPath refuses a path that could mean another place than it shows.
func cleanPath(p string) error {
	if len(p) > 1024 || !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %.80q: want an absolute one without . .. and //", p)
	}
	return nil
}
