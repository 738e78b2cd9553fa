package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api"
	"github.com/teeth-metal/teeth/controlplane/backup"
	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/minion/dispatch"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// DefaultMinion is where Minion agents are accepted by default, over TLS.
const DefaultMinion = ":6766"

// MinionConfig says how logs, telemetry and commands of Minion agents, chassis among
// them, are received and kept.
type MinionConfig struct {
	Address  string // for agents, TLS; "": none
	Insecure string // if set, one more, plain TCP, where keys are not encrypted: for originals
	Groups   string // YAML file of groups in the form of the original's StreamServer

	// Database is where the records are: a PostgreSQL URL, or sqlite:PATH. Unless set,
	// records.db in the data directory, or the estate's PostgreSQL database, in schema
	// minion.
	Database string
	Keep     time.Duration // 0: records.DefaultKeep, negative: without end
	MaxBytes int64         // 0: records.DefaultMaxBytes, negative: without limit
}

// streamServer is what serves it.
type streamServer struct {
	*minion.Server
	records  *records.DB
	dispatch *dispatch.Dispatcher

	address, insecure string // as they are listened on
}

// minionSecret is the estate's key of what chassis' keys are made of.
const minionSecret = "minion_secret"

// recordsSchema is where records are in the estate's PostgreSQL database.
const recordsSchema = "minion"

// openMinion opens the records database and wires what uses it.
func (s *server) openMinion(ctx context.Context) error {
	c := minion.Config{Chassis: s.minionChassis, Log: s.Log}
	if s.Minion.Groups != "" {
		groups, notes, err := minion.ReadConfig(s.Minion.Groups)
		if err != nil {
			return err
		}
		for _, n := range notes {
			s.Log.Warn("setting of the groups' configuration", "file", s.Minion.Groups, "note", n)
		}
		c.Groups = groups
	}
	var err error
	if c.Secret, err = s.estateSecret(ctx, minionSecret); err != nil {
		return err
	}
	dsn, o := s.Minion.Database, records.Options{Keep: s.Minion.Keep, MaxBytes: s.Minion.MaxBytes, Log: s.Log}
	switch {
	case dsn != "":
	case s.store.Shared():
		dsn, o.Schema = s.Database, recordsSchema
	default:
		dsn = filepath.Join(s.DataDir, backup.Records)
	}
	m := &s.minion
	if m.records, err = records.Open(ctx, dsn, o); err != nil {
		return err
	}
	c.Records = m.records
	if m.Server, err = minion.New(c); err != nil {
		return err
	}
	m.dispatch = dispatch.New(m.records, m.Server, s.Log)
	m.OnConnect(func(a minion.Agent) {
		m.records.Register(a)
		m.dispatch.Connected(a)
	})
	m.OnHeartbeat(func(a minion.Agent) { m.records.Heartbeat(a, time.Now()) })
	m.OnResponse(m.records.Respond)
	s.health.Add("records", m.records.Ping)
	s.health.Add("minion", func(context.Context) error { return m.Err() })
	return nil
}

// closeMinion is called when nothing uses the records database any more.
func (s *server) closeMinion() error {
	if s.minion.records == nil {
		return nil
	}
	return s.minion.records.Close()
}

// estateSecret returns a secret that all servers of the database share, sealed there;
// the first makes it.
func (s *server) estateSecret(ctx context.Context, key string) (string, error) {
	sealed, err := s.store.Estate(ctx, key)
	if err == nil && sealed == "" {
		sealed, err = s.store.SetEstate(ctx, key, s.sealer.Seal([]byte(pki.NewSecret()), key))
	}
	if err != nil {
		return "", fmt.Errorf("the estate's %s: %w", key, err)
	}
	secret, err := s.sealer.Open(sealed, key)
	if err != nil {
		return "", fmt.Errorf("the estate's %w", err)
	}
	return string(secret), nil
}

// startMinion starts what serves it.
func (s *server) startMinion(ctx context.Context, start func(part func() error), listeners map[string]net.Listener) error {
	m := &s.minion
	if err := s.metrics.Register(m.Server, m.records); err != nil {
		return err
	}
	start(func() error { return m.Run(ctx) })
	start(func() error { m.dispatch.Run(ctx); return nil })
	if m.address != "" {
		// Agents resume sessions, as after a restart all come back at once; with keys of
		// their own, as a ticket of the other listener says more.
		conf := s.authority.AgentConfig(ctx, s.secrets+" minion")
		start(func() error { return m.Serve(ctx, listeners[m.address], conf) })
	}
	if m.insecure != "" {
		s.Log.Warn("minion agents may connect without TLS: their keys and the commands to them can be read on the way", "address", m.insecure)
		start(func() error { return m.Serve(ctx, listeners[m.insecure], nil) })
	}
	return nil
}

// minionChassis is what minion.Config's Chassis is.
func (s *server) minionChassis(ctx context.Context, id string) (known, approved bool, err error) {
	approved, err = s.store.MayConnect(ctx, id)
	if err == nil {
		return true, approved, nil
	}
	if !errors.Is(err, store.ErrRefused) {
		return false, false, err
	}
	// It was rejected, or there is none.
	switch _, err = s.store.Chassis(ctx, id); {
	case err == nil:
		return true, false, nil
	case errors.Is(err, store.ErrNotFound):
		return false, false, nil
	}
	return false, false, err
}

// minionOf is what a chassis is told of the StreamServer. Over a plain session it is
// told of the plain listener only: a key that anybody could have read is no key. With no
// address it is still told that the session takes records.
func (s *server) minionOf(chassis, host string, secure bool) *teeth.MinionServer {
	listening := s.minion.address
	if !secure {
		listening = s.minion.insecure
	}
	m := &teeth.MinionServer{Addresses: []string{}, Group: minion.ChassisGroup, ID: strings.ToLower(chassis), Insecure: !secure}
	own, port, err := net.SplitHostPort(listening)
	if err != nil {
		return m // records come over the session
	}
	if ip := net.ParseIP(own); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		host = own // elsewhere nobody listens; a loopback that others have reached is forwarded
	}
	m.Addresses, m.Key = append(m.Addresses, net.JoinHostPort(host, port)), s.minion.Key(m.ID)
	return m
}

// agentConfig is what the agent of a chassis' installed system is to be told: what the
// ramdisk's was, over TLS.
func (s *server) agentConfig(c store.Chassis) (api.AgentConfig, error) {
	host := c.Endpoint
	if u, err := url.Parse(s.AdvertiseURL); host == "" && err == nil {
		host = u.Hostname()
	}
	m := s.minionOf(c.ID, host, true)
	switch {
	case len(m.Addresses) == 0 || m.Key == "":
		return api.AgentConfig{}, fmt.Errorf("this server accepts no Minion agents: it runs with --minion '': %w", store.ErrConflict)
	case host == "":
		return api.AgentConfig{}, fmt.Errorf("chassis %s has never said how it reaches this server: give the server its advertised URL: %w", c.ID, store.ErrConflict)
	}
	name := c.Name
	if name == "" {
		name = c.Serial
	}
	return api.AgentConfig{StreamServers: m.Addresses, CASHA256: s.authority.Pin(), GroupID: m.Group, GroupKey: m.Key, ServerID: m.ID, ServerName: name}, nil
}

// chassisRecords is the StreamServer for those who come over their session.
type chassisRecords struct{ m *minion.Server }

func (r chassisRecords) Ingest(ctx context.Context, chassis string, payloads [][]byte) error {
	return r.m.Ingest(ctx, minion.ChassisGroup, chassis, payloads)
}

func (r chassisRecords) IngestLog(ctx context.Context, chassis, message string, at time.Time) error {
	return r.m.IngestLog(ctx, minion.ChassisGroup, chassis, agentService, message, at)
}

func (r chassisRecords) Err() error { return r.m.Err() }

// agentService is the service of an agent's own log.
const agentService = "agent"
