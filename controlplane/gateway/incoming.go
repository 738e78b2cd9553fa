package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Bounds of what is kept of an agent's texts, in bytes.
const (
	maxMessage = 4 << 10
	maxFields  = 8 << 10
	maxStep    = 256
	maxMACs    = 64
)

// handle carries out a command of the agent's. A *teeth.MethodError goes back as
// the reply; any other error ends the session.
func (s *Session) handle(ctx context.Context, m teeth.Message) (any, error) {
	switch m.Method {
	case teeth.MethodPing:
		return m.Params, nil
	case teeth.MethodLog, teeth.MethodTaskStatus, teeth.MethodAppStatus, teeth.MethodRecords:
		// Each is a write to the store, which all chassis share.
		if err := s.reports.Wait(ctx); err != nil {
			return nil, err
		}
		switch m.Method {
		case teeth.MethodLog:
			return struct{}{}, s.logged(ctx, m)
		case teeth.MethodAppStatus:
			return struct{}{}, s.appStatus(ctx, m)
		case teeth.MethodRecords:
			return struct{}{}, s.takeRecords(ctx, m)
		}
		return struct{}{}, s.taskStatus(ctx, m)
	case teeth.MethodCertificate:
		return s.certificate(ctx, m)
	case teeth.MethodHandshake:
		return nil, &teeth.MethodError{Msg: "this session has had its handshake"}
	}
	return nil, &teeth.ViolationError{Fatal: teeth.FatalUnknownMethod, Err: fmt.Errorf("method %.64q", m.Method)}
}

// taskStatus returns nil, and so acknowledges, only what is stored or will never
// be. When the store fails the session ends, and the agent sends it again.
func (s *Session) taskStatus(ctx context.Context, m teeth.Message) error {
	var st teeth.TaskStatus
	if err := teeth.DecodeParams(m.Method, m.Params, &st, "task_id", "state"); err != nil {
		return err
	}
	if err := st.Check(); err != nil {
		return &teeth.MethodError{Msg: err.Error()}
	}
	st.Msg, st.Step = printable(st.Msg, maxMessage), printable(st.Step, maxStep)
	applied, err := s.g.c.Store.ApplyStatus(ctx, s.chassis, s.bootID, st)
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.log.Warn("status of a task this chassis was never given", "task", fmt.Sprintf("%.64s", st.TaskID), "state", string(st.State))
		return nil
	case err != nil:
		return fmt.Errorf("store the status of task %s: %w", st.TaskID, err)
	}
	if applied && st.State.Final() {
		s.log.Info("task ended", "task", st.TaskID, "state", string(st.State), "msg", st.Msg)
		s.g.c.Handler.Wake(s.chassis)
	}
	return nil
}

// appStatus hands on what the agent says of its apps. What is not taken now is said
// again a minute later.
func (s *Session) appStatus(ctx context.Context, m teeth.Message) error {
	if s.g.c.AppStatus == nil {
		return &teeth.MethodError{Msg: "nobody here keeps apps"}
	}
	if !s.approved.Load() {
		return &teeth.MethodError{Msg: fmt.Sprintf("chassis %s is not approved", s.chassis)}
	}
	var p teeth.AppParams
	if err := teeth.DecodeParams(m.Method, m.Params, &p, "data"); err != nil {
		return err
	}
	return s.g.c.AppStatus(ctx, s.chassis, p.Data)
}

func (s *Session) logged(ctx context.Context, m teeth.Message) error {
	var l teeth.Log
	if err := json.Unmarshal(m.Params, &l); err != nil {
		return &teeth.MethodError{Msg: err.Error()}
	}
	e := store.Event{Chassis: s.chassis, Time: time.Now(), Message: printable(l.Message, maxMessage)}
	// A chassis whose clock is not set yet says 1970.
	if t := time.Unix(0, int64(l.Time*1e9)); l.Time > 1e9 && l.Time < 4e9 {
		e.Time = t
	}
	if len(l.Fields) > 0 {
		b, err := json.Marshal(l.Fields)
		if err != nil || len(b) > maxFields {
			b = []byte(`{"dropped": "too large"}`)
		}
		e.Fields = b
	}
	if err := s.g.c.Store.AddEvent(ctx, e); err != nil {
		return err
	}
	s.recordLog(ctx, e)
	return nil
}

// printable bounds s and removes what could steer a terminal.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}

var (
	idPattern  = regexp.MustCompile(`^[0-9a-z][0-9a-z:._-]{0,63}$`)
	macPattern = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
)

// normalise brings a handshake into the form the store wants, and refuses what
// has none. The original's id is no MAC address, so any short name is taken.
func normalise(h *teeth.Handshake) error {
	h.ID = strings.ToLower(h.ID)
	if !idPattern.MatchString(h.ID) {
		return fmt.Errorf("id %.80q is not a MAC address", h.ID)
	}
	if len(h.MACs) > maxMACs {
		return fmt.Errorf("%d MAC addresses; at most %d", len(h.MACs), maxMACs)
	}
	for i, m := range h.MACs {
		if h.MACs[i] = strings.ToLower(m); !macPattern.MatchString(h.MACs[i]) {
			return fmt.Errorf("%.80q is not a MAC address", m)
		}
	}
	h.UUID = strings.ToLower(strings.TrimSpace(h.UUID))
	h.Serial = strings.TrimSpace(h.Serial)
	for name, v := range map[string]string{"version": h.Version, "uuid": h.UUID, "serial": h.Serial, "boot_id": h.BootID, "endpoint": h.Endpoint} {
		if len(v) > 256 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("%s: want up to 256 printable ASCII characters", name)
		}
	}
	return nil
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*$`)

// endpointHost is the host under which the agent reaches this server: what it
// says, if that is a host, else the address it has connected to.
func endpointHost(said, local string) string {
	host := hostOf(said)
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && ip.Zone() == "" && !ip.IsUnspecified():
		return ip.Unmap().String()
	case err != nil && len(host) <= 253 && namePattern.MatchString(host):
		return host
	}
	return hostOf(local)
}
