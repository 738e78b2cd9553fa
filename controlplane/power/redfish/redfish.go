// Package redfish makes power.Controllers that speak Redfish (DSP0266) over
// HTTPS, with a session of their own that is always ended: BMCs have few. The
// certificate is checked against a fingerprint or the system's authorities,
// unless the operator said otherwise.
package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/teeth-metal/teeth/controlplane/power"
)

const closing = 10 * time.Second

type session struct {
	api     *gofish.APIClient
	http    *http.Transport
	address string
	user    string
	system  string // Id of the system that is meant, "" for the only one
}

// Check says whether a BMC with Redfish could have such an address and user.
func Check(t power.Target) error {
	if _, err := endpoint(t.Address); err != nil {
		return err
	}
	if t.Username == "" {
		return fmt.Errorf("BMC %s: no user given: %w", t.Address, power.ErrInvalid)
	}
	if t.CertSHA256 != "" {
		if _, err := Fingerprint(t.CertSHA256); err != nil {
			return fmt.Errorf("BMC %s: %w", t.Address, err)
		}
	}
	return nil
}

// Open starts a session with the BMC. It is a power.Open.
func Open(ctx context.Context, t power.Target) (power.Controller, error) {
	if err := Check(t); err != nil {
		return nil, err
	}
	u, err := endpoint(t.Address)
	if err != nil {
		return nil, err
	}
	client, inner, err := newHTTPClient(t, u.Host)
	if err != nil {
		return nil, err
	}
	s := &session{http: inner, address: t.Address, user: t.Username, system: t.System}
	s.api, err = gofish.ConnectContext(ctx, gofish.ClientConfig{
		Endpoint: u.String(), Username: t.Username, Password: t.Password,
		HTTPClient: client, NoModifyTransport: true, ReuseConnections: true,
	})
	if err != nil {
		inner.CloseIdleConnections()
		return nil, s.explain(ctx, "start a session", err)
	}
	return s, nil
}

// maxDetail bounds what of a BMC's own words goes into an error.
const maxDetail = 300

func (s *session) explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	fail := func(kind error, detail string) error {
		if len(detail) > maxDetail {
			detail = detail[:maxDetail] + "…"
		}
		return fmt.Errorf("BMC %s: %s: %w: %s", s.address, what, kind, strings.ToValidUTF8(detail, "?"))
	}
	var answer *schemas.Error
	var network *net.OpError
	detail, untrusted := explainTLS(err)
	switch {
	case errors.Is(err, power.ErrUnsupported), errors.Is(err, power.ErrInvalid):
		return fmt.Errorf("BMC %s: %s: %w", s.address, what, err)
	case errors.As(err, &answer):
		detail := "HTTP status " + strconv.Itoa(answer.HTTPReturnedStatusCode)
		if m := message(answer); m != "" {
			detail += ": " + m
		}
		switch answer.HTTPReturnedStatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fail(power.ErrDenied, detail)
		case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
			return fail(power.ErrUnreachable, detail)
		}
		return fail(power.ErrUnsupported, detail)
	case untrusted:
		return fail(power.ErrDenied, detail)
	case errors.Is(err, errElsewhere):
		return fail(power.ErrUnsupported, err.Error())
	case ctx.Err() != nil:
		return fmt.Errorf("BMC %s: %s: %w: %w", s.address, what, power.ErrUnreachable, ctx.Err())
	case errors.As(err, &network):
		return fail(power.ErrUnreachable, network.Err.Error())
	}
	return fail(power.ErrUnreachable, err.Error())
}

// message is what the BMC says, in its own words; DSP0266 puts the useful ones
// into the extended information.
func message(e *schemas.Error) string {
	for _, more := range e.ExtendedInfos {
		if more.Message != "" {
			return more.Message
		}
	}
	return e.Message
}

// Close ends the session.
func (s *session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	defer s.http.CloseIdleConnections()
	live, err := s.api.GetSession()
	if err != nil {
		return nil // there is none to end
	}
	resp, err := s.api.WithContext(ctx).Delete(live.ID)
	if resp != nil {
		resp.Body.Close()
	}
	return s.explain(ctx, "end the session", err)
}

// in returns the system this session is for, read anew.
func (s *session) in(ctx context.Context) (*schemas.ComputerSystem, error) {
	systems, err := s.api.WithContext(ctx).Service.Systems()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range systems {
		if c.ID == s.system || s.system == "" && len(systems) == 1 {
			return c, nil
		}
		ids = append(ids, c.ID)
	}
	if s.system == "" {
		return nil, fmt.Errorf("it has %d systems, %.200q: say which one with --system: %w", len(ids), ids, power.ErrInvalid)
	}
	return nil, fmt.Errorf("it has no system %q, but %.200q: %w", s.system, ids, power.ErrInvalid)
}

func stateOf(s schemas.PowerState) power.State {
	switch s {
	case schemas.OnPowerState:
		return power.On
	case schemas.OffPowerState:
		return power.Off
	}
	return power.Unknown // PoweringOn, PoweringOff, Paused
}

// State returns whether the system has power.
func (s *session) State(ctx context.Context) (power.State, error) {
	sys, err := s.in(ctx)
	if err != nil {
		return power.Unknown, s.explain(ctx, "get power state", err)
	}
	return stateOf(sys.PowerState), nil
}

// resets are the ways to carry out an action, best first, as ResetType values.
var resets = map[power.Action][]schemas.ResetType{
	power.TurnOn:   {schemas.OnResetType, schemas.ForceOnResetType},
	power.TurnOff:  {schemas.ForceOffResetType},
	power.Shutdown: {schemas.GracefulShutdownResetType, schemas.PushPowerButtonResetType},
	power.Cycle:    {schemas.PowerCycleResetType, schemas.ForceRestartResetType},
	power.Reset:    {schemas.ForceRestartResetType, schemas.PowerCycleResetType},
}

// Set starts the action.
func (s *session) Set(ctx context.Context, a power.Action) error {
	what := "power " + string(a)
	ways, ok := resets[a]
	if !ok {
		return fmt.Errorf("BMC %s: power action %.40q: %w", s.address, a, power.ErrInvalid)
	}
	sys, err := s.in(ctx)
	if err != nil {
		return s.explain(ctx, what, err)
	}
	switch state := stateOf(sys.PowerState); {
	case (a == power.Cycle || a == power.Reset) && state == power.Off:
		ways = resets[power.TurnOn]
	case a == power.TurnOn && state == power.On, (a == power.TurnOff || a == power.Shutdown) && state == power.Off:
		return nil // services may refuse what is so already
	}
	allowed, err := sys.GetSupportedResetTypes()
	if err != nil {
		return s.explain(ctx, what, err)
	}
	way := ways[0]
	if len(allowed) > 0 {
		i := slices.IndexFunc(ways, func(w schemas.ResetType) bool { return slices.Contains(allowed, w) })
		if i < 0 {
			return s.explain(ctx, what, fmt.Errorf("it allows only %.200q: %w", allowed, power.ErrUnsupported))
		}
		way = ways[i]
	}
	_, err = sys.Reset(way)
	return s.explain(ctx, what, err)
}

var targets = map[power.Device]schemas.BootSource{
	power.Default: schemas.NoneBootSource,
	power.PXE:     schemas.PxeBootSource,
	power.HTTP:    schemas.UefiHTTPBootSource,
	power.Disk:    schemas.HddBootSource,
	power.CDROM:   schemas.CdBootSource,
	power.BIOS:    schemas.BiosSetupBootSource,
}

// SetBoot overrides what the system boots from, and reads back that it did.
func (s *session) SetBoot(ctx context.Context, b power.Boot) error {
	if err := b.Check(); err != nil {
		return err
	}
	what := "set boot device " + string(b.Device)
	sys, err := s.in(ctx)
	if err != nil {
		return s.explain(ctx, what, err)
	}
	// A service that has only one of the two ways to boot from the network says so
	// here; its refusal would say less.
	if can := sys.Boot.AllowableBootSourceOverrideTargetValues; len(can) > 0 && !slices.Contains(can, targets[b.Device]) {
		return s.explain(ctx, what, fmt.Errorf("it can only boot from %.200q: %w", can, power.ErrUnsupported))
	}
	boot := &schemas.Boot{
		BootSourceOverrideTarget:  targets[b.Device],
		BootSourceOverrideEnabled: schemas.OnceBootSourceOverrideEnabled,
	}
	switch {
	case b.Device == power.Default:
		boot.BootSourceOverrideEnabled = schemas.DisabledBootSourceOverrideEnabled
	case b.Persistent:
		boot.BootSourceOverrideEnabled = schemas.ContinuousBootSourceOverrideEnabled
	}
	if b.UEFI || b.Device == power.HTTP {
		boot.BootSourceOverrideMode = schemas.UEFIBootSourceOverrideMode
	}
	if err := sys.SetBoot(boot); err != nil {
		return s.explain(ctx, what, err)
	}
	if b.Device == power.Default {
		return nil
	}
	// Some services answer 200 and change nothing. Others apply it at the next
	// reset and say so in a settings resource, where it is pending.
	if sys, err = s.in(ctx); err != nil {
		return s.explain(ctx, what, err)
	}
	if got := sys.Boot.BootSourceOverrideTarget; got != targets[b.Device] && !hasPending(sys) {
		return s.explain(ctx, what, fmt.Errorf("it took the request, yet has %q set: %w", got, power.ErrUnsupported))
	}
	return nil
}

// hasPending reports whether the resource applies changes later (@Redfish.Settings).
func hasPending(sys *schemas.ComputerSystem) bool {
	var raw map[string]json.RawMessage
	if json.Unmarshal(sys.RawData, &raw) != nil {
		return false
	}
	_, ok := raw["@Redfish.Settings"]
	return ok
}
