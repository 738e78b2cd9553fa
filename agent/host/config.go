package host

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/command"
	"github.com/teeth-metal/teeth/agent/minion/tail"
	"github.com/teeth-metal/teeth/agent/minion/telemetry"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/agent/upgrade"
)

const (
	// DefaultConfig is where the configuration is unless something else is said.
	DefaultConfig = "/etc/teeth-agent/config.yml"
	defaultSpool  = "/var/lib/teeth-agent"
	defaultPort   = 6766
	maxConfig     = 1 << 20
)

// Config is what the file says.
type Config struct {
	Upgrade    string `yaml:"upgrade"`
	UpgradeKey string `yaml:"upgrade_key"`

	ServerID     string   `yaml:"server_id"`
	ServerName   string   `yaml:"server_name"`
	GroupID      string   `yaml:"group_id"`
	GroupKey     string   `yaml:"group_key"`
	GroupKeyFile string   `yaml:"group_key_file"`
	Host         string   `yaml:"streamserver_host"`
	Port         int      `yaml:"streamserver_port"`
	Servers      []string `yaml:"streamservers"`
	CASHA256     string   `yaml:"ca_sha256"`
	Insecure     bool     `yaml:"insecure"`

	TelemetryInterval float64             `yaml:"telemetry_interval"`
	Builtin           []telemetry.Builtin `yaml:"builtin_telemetries"`
	Telemetries       []telemetry.Custom  `yaml:"telemetries"`
	TailLogs          []tail.File         `yaml:"tail_logs"`

	Commands  command.Policy `yaml:"commands"`
	Spool     string         `yaml:"spool"`
	SpoolSize Size           `yaml:"spool_size"`
	Log       slog.Level     `yaml:"log"`

	// Unknown is what keys there are that mean nothing here.
	Unknown []string `yaml:"-"`
}

// Size is a number of bytes, written as 500MiB or 1GiB.
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	text, unit := strings.TrimSpace(n.Value), int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(t), u
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 1 || v > math.MaxInt64/unit {
		return fmt.Errorf("line %d: size %.40q: want bytes, or a number with KiB, MiB or GiB", n.Line, n.Value)
	}
	*s = Size(v * unit)
	return nil
}

// Load reads and checks a configuration file.
func Load(path string) (Config, error) {
	b, err := readConfig(path)
	if err != nil {
		return Config{}, err
	}
	c, err := Parse(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return b, nil
}

// Parse reads a configuration, and fills in what it leaves out.
func Parse(b []byte) (Config, error) {
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&c)
	var bad *yaml.TypeError
	if errors.As(err, &bad) {
		c = Config{}
		if err = yaml.Unmarshal(b, &c); err == nil { // it was unknown keys only
			c.Unknown = bad.Errors
		}
	}
	if err != nil && !errors.Is(err, io.EOF) { // an empty file
		return c, err
	}
	var sections map[string]yaml.Node
	if err := yaml.Unmarshal(b, &sections); err != nil {
		return c, err
	}
	if n, ok := sections["commands"]; ok && n.ShortTag() == "!!null" {
		return c, fmt.Errorf("line %d: commands is empty, which would allow everything: leave it out if that is meant", n.Line)
	}
	c.defaults()
	return c, c.check()
}

func (c *Config) defaults() {
	if c.Port == 0 {
		c.Port = defaultPort
	}
	if c.Host != "" {
		c.Servers = append([]string{net.JoinHostPort(c.Host, strconv.Itoa(c.Port))}, c.Servers...)
	}
	if c.ServerID == "" {
		c.ServerID = boot.ReadIdentity("/sys").UUID
	}
	if c.Spool == "" {
		c.Spool = defaultSpool
	}
	if c.TelemetryInterval == 0 {
		c.TelemetryInterval = telemetry.DefaultInterval.Seconds()
	}
}

// check reports what is missing or cannot be meant.
func (c *Config) check() error {
	switch {
	case len(c.Servers) == 0:
		return errors.New("streamserver_host is missing: name the StreamServer")
	case c.GroupID == "":
		return errors.New("group_id is missing")
	case c.ServerID == "":
		return errors.New("server_id is missing, and this machine has no UUID of its own that could be read (as root)")
	case (c.GroupKey == "") == (c.GroupKeyFile == ""):
		return errors.New("give one of group_key and group_key_file")
	case c.CASHA256 == "" && !c.Insecure:
		return errors.New("the StreamServer cannot be told from an impostor: give ca_sha256, the 64 digits that teeth serve prints, or insecure: true for plain TCP, as an original speaks it")
	case c.CASHA256 != "" && c.Insecure:
		return errors.New("ca_sha256 and insecure exclude each other: drop one of the two")
	case c.Port < 1 || c.Port > 65535:
		return fmt.Errorf("streamserver_port %d: want 1 to 65535", c.Port)
	case !filepath.IsAbs(c.Spool):
		return fmt.Errorf("spool %q: want an absolute path", c.Spool)
	case !(c.TelemetryInterval >= 1 && c.TelemetryInterval <= 86400):
		return fmt.Errorf("telemetry_interval %v: want 1 to 86400 seconds", c.TelemetryInterval)
	case c.Upgrade != "" && c.UpgradeKey == "":
		return errors.New("upgrade needs upgrade_key, the public key of minisign that versions are signed by")
	}
	for _, a := range c.Servers {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("StreamServer %q is not host:port", a)
		}
	}
	if c.UpgradeKey != "" {
		if _, err := upgrade.ParseKey(c.UpgradeKey); err != nil {
			return fmt.Errorf("upgrade_key: %w", err)
		}
	}
	if _, err := c.tls(); err != nil {
		return fmt.Errorf("ca_sha256: %w", err)
	}
	// What they are made of is checked where it is used.
	discard := slog.New(slog.DiscardHandler)
	_, err := telemetry.New(c.telemetry(func(string, ...string) {}, discard))
	if err == nil {
		_, err = tail.New(tail.Config{Files: c.TailLogs, Line: noLine, Log: discard})
	}
	if err == nil {
		_, err = command.New(command.Config{Policy: c.Commands, Log: discard})
	}
	return err
}

func (c *Config) tls() (*tls.Config, error) {
	if c.Insecure {
		return nil, nil
	}
	return session.TLSConfig(c.CASHA256)
}

func (c *Config) telemetry(send func(string, ...string), log *slog.Logger) telemetry.Config {
	return telemetry.Config{
		Interval: time.Duration(c.TelemetryInterval * float64(time.Second)),
		Builtin:  c.Builtin, Custom: c.Telemetries, Send: send, Log: log,
	}
}

// target is where records go. The key is read now: it may have changed in its file.
func (c *Config) target() (minion.Target, error) {
	t := minion.Target{Addresses: c.Servers, Group: c.GroupID, Server: c.ServerID, Key: c.GroupKey}
	if c.GroupKeyFile != "" {
		b, err := os.ReadFile(c.GroupKeyFile)
		if err != nil {
			return t, fmt.Errorf("group_key_file: %w", err)
		}
		t.Key = strings.TrimSpace(string(b))
	}
	var err error
	t.TLS, err = c.tls()
	return t, err
}
