package minion

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxConfig bounds a configuration, in bytes.
const maxConfig = 1 << 20

// maxName bounds the id of a group or server, in bytes.
const maxName = 255

// Kinds of a destination.
type destinationType string

// The original's names. "database" and "records" are ours for what it calls
// postgresql: which database that is, the server's own flags say.
const (
	typeFile    destinationType = "file"
	typeIO      destinationType = "io"
	typeRecords destinationType = "records"
)

// GroupConfig is a group of agents with one key, and what becomes of what they send.
type GroupConfig struct {
	ID       string
	Key      string
	Services []ServiceConfig
	// Telemetry is by label; that of no label is for all others. Without any it goes
	// to the records database.
	Telemetry []TelemetryConfig
}

// ServiceConfig says where the log lines of services go.
type ServiceConfig struct {
	Names   []string
	To      Destination
	Cull    bool // a line that is the same as the one before is counted instead of kept
	Default bool // also those of services that have no entry
}

// TelemetryConfig says where telemetry goes.
type TelemetryConfig struct {
	Label string
	To    Destination
}

// Destination is a place for entries: a file, "stdout" or "stderr", or the records
// database.
type Destination struct {
	Type destinationType
	Path string // of a file, absolute; or the stream's name
}

// The file's form, which is the original's.
type (
	fileConfig struct {
		ServiceDefaults fileService   `yaml:"service_defaults"`
		Groups          []fileGroup   `yaml:"groups"`
		Ignored         fileElsewhere `yaml:",inline"`
	}
	// fileElsewhere are the original's settings that are flags of our server, or
	// that it has no use for.
	fileElsewhere struct {
		Port         any `yaml:"port"`
		Host         any `yaml:"host"`
		DefaultLog   any `yaml:"default_log"`
		Daemonize    any `yaml:"daemonize"`
		SyncInterval any `yaml:"syncinterval"`
		PIDFile      any `yaml:"pidfile"`
		Command      any `yaml:"command"`
	}
	fileGroup struct {
		ID              string        `yaml:"id"`
		Key             string        `yaml:"key"`
		ServiceDefaults fileService   `yaml:"service_defaults"`
		Services        []fileService `yaml:"services"`
		Telemetry       []fileMetric  `yaml:"telemetry"`
		Responses       any           `yaml:"responses"`
		Command         any           `yaml:"command"`
	}
	fileService struct {
		Service     names `yaml:"service"`
		Type        string
		Destination string
		Cull        *bool
		Default     bool
		Options     any
	}
	fileMetric struct {
		Label       names `yaml:"label"`
		Type        string
		Destination string
		Options     any
	}
	names []string
)

// UnmarshalYAML reads a name or a list of names.
func (n *names) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*n = names{node.Value}
		return nil
	}
	return node.Decode((*[]string)(n))
}

// ReadConfig reads the groups from a file in the form of the original's StreamServer.
// ENV["NAME"] in keys and destinations stands for an environment variable. Notes name
// the settings that have no effect here.
func ReadConfig(path string) (groups []GroupConfig, notes []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of groups: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("more than %d bytes", maxConfig)
	}
	if err == nil {
		groups, notes, err = parseConfig(b)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of groups %s: %w", path, err)
	}
	return groups, notes, nil
}

func parseConfig(b []byte) (groups []GroupConfig, notes []string, err error) {
	var c fileConfig
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	for name, value := range map[string]any{
		"port": c.Ignored.Port, "host": c.Ignored.Host, "default_log": c.Ignored.DefaultLog, "daemonize": c.Ignored.Daemonize,
		"syncinterval": c.Ignored.SyncInterval, "pidfile": c.Ignored.PIDFile, "command": c.Ignored.Command,
	} {
		if value != nil {
			notes = append(notes, name+": has no effect: a flag of teeth serve says it, or nothing needs it")
		}
	}
	slices.Sort(notes)
	for i, g := range c.Groups {
		made, err := g.config(c.ServiceDefaults)
		if err != nil {
			return nil, nil, fmt.Errorf("group %d (%.64q): %w", i+1, g.ID, err)
		}
		if slices.ContainsFunc(groups, func(other GroupConfig) bool { return other.ID == made.ID }) {
			return nil, nil, fmt.Errorf("group %.64q is there twice", g.ID)
		}
		groups = append(groups, made)
	}
	return groups, notes, nil
}

func (g fileGroup) config(defaults fileService) (GroupConfig, error) {
	key, err := expand(g.Key)
	if err != nil {
		return GroupConfig{}, fmt.Errorf("key: %w", err)
	}
	switch {
	case !validName(g.ID):
		return GroupConfig{}, fmt.Errorf("id: want 1 to %d printable characters", maxName)
	case g.ID == ChassisGroup && key != "":
		return GroupConfig{}, errors.New("key: the group of chassis has a key for each chassis: leave it out")
	case g.ID != ChassisGroup && key == "":
		return GroupConfig{}, errors.New("it has no key, so that anybody could write its logs: give it one")
	}
	c := GroupConfig{ID: g.ID, Key: key}
	defaults = g.ServiceDefaults.over(defaults)
	for i, s := range g.Services {
		s = s.over(defaults)
		to, err := destination(s.Type, s.Destination)
		if err != nil {
			return GroupConfig{}, fmt.Errorf("service %d (%.64q): %w", i+1, []string(s.Service), err)
		}
		if len(s.Service) == 0 && !s.Default {
			return GroupConfig{}, fmt.Errorf("service %d: it has no name and is not the default", i+1)
		}
		c.Services = append(c.Services, ServiceConfig{Names: s.Service, To: to, Default: s.Default, Cull: s.Cull == nil || *s.Cull})
	}
	for i, t := range g.Telemetry {
		to, err := destination(t.Type, t.Destination)
		if err != nil {
			return GroupConfig{}, fmt.Errorf("telemetry %d (%.64q): %w", i+1, []string(t.Label), err)
		}
		for _, label := range append(t.Label, "")[:max(len(t.Label), 1)] {
			c.Telemetry = append(c.Telemetry, TelemetryConfig{Label: label, To: to})
		}
	}
	return c, nil
}

// over returns s with what it leaves open as in defaults.
func (s fileService) over(defaults fileService) fileService {
	if s.Type == "" {
		s.Type = defaults.Type
	}
	if s.Destination == "" {
		s.Destination = defaults.Destination
	}
	if s.Cull == nil {
		s.Cull = defaults.Cull
	}
	if len(s.Service) == 0 {
		s.Service = defaults.Service
	}
	return s
}

func destination(kind, where string) (Destination, error) {
	where, err := expand(where)
	if err != nil {
		return Destination{}, fmt.Errorf("destination: %w", err)
	}
	switch strings.ToLower(kind) {
	case "postgresql", "postgres", "database", "records":
		return Destination{Type: typeRecords}, nil
	case "file":
		if !filepath.IsAbs(where) {
			return Destination{}, fmt.Errorf("destination %.200q: want a file's absolute path", where)
		}
		return Destination{Type: typeFile, Path: filepath.Clean(where)}, nil
	case "io":
		if where = strings.ToLower(where); where != "stdout" && where != "stderr" {
			return Destination{}, fmt.Errorf("destination %.200q: want stdout or stderr", where)
		}
		return Destination{Type: typeIO, Path: where}, nil
	}
	return Destination{}, fmt.Errorf("type %.64q: want file, io or postgresql", kind)
}

var variable = regexp.MustCompile(`ENV\["([A-Za-z_][A-Za-z0-9_]*)"\]`)

// expand puts environment variables in. One that is not set is an error, as a key
// that is empty by mistake would be.
func expand(s string) (string, error) {
	var missing error
	s = variable.ReplaceAllStringFunc(s, func(m string) string {
		name := variable.FindStringSubmatch(m)[1]
		v, ok := os.LookupEnv(name)
		if !ok {
			missing = fmt.Errorf("environment variable %s is not set", name)
		}
		return v
	})
	return s, missing
}

// validName reports whether a group's or server's id is one to be shown and kept.
func validName(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
