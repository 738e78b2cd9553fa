package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
)

// Listening addresses unless Config has others.
const (
	DefaultAgents = ":8081"
	DefaultAPI    = "127.0.0.1:8080"
	DefaultBoot   = ":8082"
)

// Config of a control plane.
type Config struct {
	DataDir string // all state; made if absent
	// Database is where the state is that servers share: a PostgreSQL URL, or
	// sqlite:PATH; teeth.db in DataDir unless set (see package store).
	Database string
	BootDir  string // where `teeth initramfs build` has put the appliance image

	Agents string // address for agents, TLS
	API    string // address for operators, HTTPS
	Boot   string // address for chassis that boot, plain HTTP

	// InsecureAgents, if set, is one more address for agents, plain TCP, that
	// asks for no token. The original agent can connect nowhere else.
	InsecureAgents string

	// AdvertiseURL is the base URL of the Boot address as chassis see it. Unless
	// set it is the host by which the chassis' agent reaches the control plane,
	// with Boot's port.
	AdvertiseURL string
	KernelArgs   string   // further kernel parameters in the boot script
	Names        []string // further host names and IP addresses of the certificate
	MaxImageSize int64    // bytes; 0: images.DefaultMaxSize

	Network    NetworkConfig
	Enrolment  EnrolmentConfig
	Messages   MessagesConfig
	Hardware   HardwareConfig
	Operations OperationsConfig
	Backbone   BackboneConfig
	Minion     MinionConfig

	Version string
	Log     *slog.Logger
	Ready   func(Info) // called once everything listens; may be nil

	fetchLoopback bool // tests
}

func (c Config) check() error {
	if c.DataDir == "" {
		return errors.New("no data directory given")
	}
	if c.AdvertiseURL != "" {
		u, err := url.Parse(c.AdvertiseURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("advertised URL %q: want http://host:port", c.AdvertiseURL)
		}
	}
	return nil
}

// Info is what a running control plane tells its operator.
type Info struct {
	Agents, API, Boot, InsecureAgents string // addresses with their real ports
	Minion, InsecureMinion            string // the same; "" if there is none
	Metrics                           string // the same; "" if there is none

	CASHA256   string // what agents and clients pin
	ClientFile string // how the client package finds and proves itself to this server
}

// ClientFile returns where a control plane with this data directory writes how
// to reach it (client.Config).
func ClientFile(dataDir string) string { return filepath.Join(dataDir, "client.json") }

func (s *server) writeClientFile(info Info) error {
	host, port, err := net.SplitHostPort(info.API)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	b, err := json.MarshalIndent(client.Config{URL: "https://" + net.JoinHostPort(host, port), CASHA256: info.CASHA256, Token: s.operator}, "", "\t")
	if err != nil {
		return err
	}
	if err := pki.WriteFile(info.ClientFile, append(b, '\n')); err != nil {
		return fmt.Errorf("write how to reach this server: %w", err)
	}
	return nil
}
