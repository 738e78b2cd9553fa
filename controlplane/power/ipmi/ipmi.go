// Package ipmi makes power.Controllers that speak IPMI v2.0 over RMCP+
// ("lanplus"). Sessions are authenticated and encrypted with cipher suite 17
// (SHA-256), or 3 (SHA-1) where a BMC knows no better, at privilege level
// operator, which is enough for all that is asked.
//
// IPMI hands everybody who can reach a BMC, and knows a user's name, a hash to
// guess the password from offline (CVE-2013-4786). Keep BMCs on a network of
// their own, and their passwords long and random.
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/teeth-metal/teeth/controlplane/power"
)

const (
	defaultPort = 623
	maxUser     = 16 // IPMI v2.0, section 22.28
	maxPassword = 20
	// A request goes out up to five times. BMCs take a second for some.
	timeout = 2 * time.Second
	retries = 4
	// closing bounds how long is waited for a BMC to confirm the end of a session.
	closing = 3 * time.Second
)

type session struct {
	c       *client.Client
	guard   *guard
	address string
	user    string
}

// Check says whether a BMC with IPMI could have such an address, user and password.
func Check(t power.Target) error {
	if _, _, err := hostPort(t.Address); err != nil {
		return err
	}
	if t.Username == "" || len(t.Username) > maxUser {
		return fmt.Errorf("BMC %s: IPMI has user names of 1 to %d bytes: %w", t.Address, maxUser, power.ErrInvalid)
	}
	if len(t.Password) > maxPassword {
		return fmt.Errorf("BMC %s: IPMI has passwords of at most %d bytes: %w", t.Address, maxPassword, power.ErrInvalid)
	}
	return nil
}

// hostPort takes an address apart. A bare IPv6 address has colons of its own.
func hostPort(address string) (string, int, error) {
	host, port := address, strconv.Itoa(defaultPort)
	if h, p, err := net.SplitHostPort(address); err == nil {
		host, port = h, p
	} else if strings.Contains(address, ":") && net.ParseIP(strings.Trim(address, "[]")) == nil {
		return "", 0, fmt.Errorf("BMC address %.80q: write HOST or HOST:PORT: %w", address, power.ErrInvalid)
	}
	host = strings.Trim(host, "[]")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@ ") {
		return "", 0, fmt.Errorf("BMC address %.80q: write HOST or HOST:PORT: %w", address, power.ErrInvalid)
	}
	return host, int(n), nil
}

// dialer gives the library the one connection that is made for it.
type dialer struct{ conn net.Conn }

func (d dialer) Dial(string, string) (net.Conn, error) { return d.conn, nil }

// Open starts a session with the BMC. It is a power.Open.
func Open(ctx context.Context, t power.Target) (_ power.Controller, err error) {
	if err := Check(t); err != nil {
		return nil, err
	}
	host, port, err := hostPort(t.Address)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("BMC %s: %w: %w", t.Address, power.ErrUnreachable, err)
	}
	g := &guard{Conn: conn, user: t.Username, password: t.Password}
	c, err := client.NewClient(host, port, t.Username, t.Password)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("BMC %s: %w", t.Address, err)
	}
	c.WithUDPProxy(dialer{g}).WithTimeout(timeout).WithRetry(retries).WithBufferSize(maxDatagram).
		WithMaxPrivilegeLevel(types.PrivilegeLevelOperator).
		WithCipherSuiteID(types.CipherSuiteID17, types.CipherSuiteID3)
	s := &session{c: c, guard: g, address: t.Address, user: t.Username}
	if err := s.do(ctx, "start a session", func() error { return c.Connect(ctx) }); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// do calls the library, whose decoders may panic on what a BMC answers, and
// makes an error of ours from one of its.
func (s *session) do(ctx context.Context, what string, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BMC %s: %s: its answer cannot be decoded: %v", s.address, what, p)
		}
	}()
	if err := call(); err != nil {
		return s.explain(ctx, what, err)
	}
	return nil
}

// RMCP+ status codes with which a BMC refuses a session, table 13-15.
const (
	statusNoRoom         = 0x01
	statusRoleUnknown    = 0x09
	statusRoleForbidden  = 0x0a
	statusNoRoomForRole  = 0x0b
	statusNameTooLong    = 0x0c
	statusUserUnknown    = 0x0d
	statusUserForbidden  = 0x0e
	statusWrongIntegrity = 0x0f
	statusNoCipherSuite  = 0x11
)

func (s *session) explain(ctx context.Context, what string, err error) error {
	fail := func(kind error, detail string) error {
		return fmt.Errorf("BMC %s: %s: %w: %s", s.address, what, kind, detail)
	}
	if code, ok := completion(err); ok {
		return s.explainCode(what, code)
	}
	status, refused := s.guard.refusal()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("BMC %s: %s: %w: %w", s.address, what, power.ErrUnreachable, ctx.Err())
	case strings.Contains(err.Error(), client.ErrRAKPAuthentication.Error()):
		return fail(power.ErrDenied, "the password is wrong, or it is another BMC")
	case status != 0:
		switch status {
		case statusRoleUnknown, statusRoleForbidden, statusNameTooLong, statusUserUnknown, statusUserForbidden, statusWrongIntegrity:
			return fail(power.ErrDenied, types.RmcpStatusCode(status).String())
		case statusNoRoom, statusNoRoomForRole:
			return fail(power.ErrUnreachable, "it has no session left: "+types.RmcpStatusCode(status).String())
		case statusNoCipherSuite:
			return fail(power.ErrUnsupported, "it offers neither cipher suite 17 nor 3")
		}
		return fail(power.ErrUnreachable, types.RmcpStatusCode(status).String())
	}
	var op *net.OpError
	if errors.As(err, &op) && !op.Timeout() {
		return fail(power.ErrUnreachable, op.Err.Error())
	}
	if refused != "" {
		return fail(power.ErrUnreachable, "what came was not let in: "+refused)
	}
	if strings.Contains(err.Error(), "unpack") {
		return fmt.Errorf("BMC %s: %s: its answer cannot be decoded: %w", s.address, what, err)
	}
	return fail(power.ErrUnreachable, fmt.Sprintf("no answer to IPMI in %v", timeout*(retries+1)))
}

// completion is the code with which the BMC answered instead of doing it.
func completion(err error) (byte, bool) {
	var r *types.ResponseError
	if !errors.As(err, &r) || r.CompletionCode() == 0 {
		return 0, false
	}
	return byte(r.CompletionCode()), true
}

func (s *session) explainCode(what string, code byte) error {
	kind := power.ErrUnsupported
	detail := fmt.Sprintf("completion code %#02x", code)
	switch code { // table 5-2
	case 0xc0:
		kind, detail = power.ErrUnreachable, "it is busy (completion code 0xc0)"
	case 0xd4:
		kind, detail = power.ErrDenied, "the user may not do that: it needs privilege level operator (completion code 0xd4)"
	case 0xd5:
		detail = "not possible in its present state (completion code 0xd5)"
	case 0xc1:
		detail = "unknown command (completion code 0xc1)"
	}
	return fmt.Errorf("BMC %s: %s: %w: %s", s.address, what, kind, detail)
}

// Close ends the session.
func (s *session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	defer s.guard.Close()
	return s.do(ctx, "end the session", func() error { return s.c.Close(ctx) })
}

// State returns whether the chassis has power.
func (s *session) State(ctx context.Context) (state power.State, err error) {
	err = s.do(ctx, "get power state", func() error {
		res, err := s.c.GetChassisStatus(ctx)
		if err != nil {
			return err
		}
		state = power.Off
		if res.PowerIsOn {
			state = power.On
		}
		return nil
	})
	return state, err
}

var controls = map[power.Action]chassis.ChassisControl{
	power.TurnOn:   chassis.ChassisControlPowerUp,
	power.TurnOff:  chassis.ChassisControlPowerDown,
	power.Shutdown: chassis.ChassisControlSoftShutdown,
	power.Cycle:    chassis.ChassisControlPowerCycle,
	power.Reset:    chassis.ChassisControlHardReset,
}

// Set starts the action.
func (s *session) Set(ctx context.Context, a power.Action) error {
	control, ok := controls[a]
	if !ok {
		return fmt.Errorf("BMC %s: power action %.40q: %w", s.address, a, power.ErrInvalid)
	}
	if a == power.Cycle || a == power.Reset { // which BMCs refuse, or ignore, when there is no power
		state, err := s.State(ctx)
		if err != nil {
			return err
		}
		if state == power.Off {
			control = chassis.ChassisControlPowerUp
		}
	}
	return s.do(ctx, "power "+string(a), func() error {
		_, err := s.c.ChassisControl(ctx, control)
		return err
	})
}

var selectors = map[power.Device]types.BootDeviceSelector{
	power.Default: types.BootDeviceSelectorNoOverride,
	power.PXE:     types.BootDeviceSelectorForcePXE,
	power.Disk:    types.BootDeviceSelectorForceHardDrive,
	power.CDROM:   types.BootDeviceSelectorForceCDROM,
	power.BIOS:    types.BootDeviceSelectorForceBIOSSetup,
}

// SetBoot overrides what the chassis boots from, section 28.13.
func (s *session) SetBoot(ctx context.Context, b power.Boot) error {
	if err := b.Check(); err != nil {
		return err
	}
	var got *types.BootOptionParam_BootFlags
	want, ok := selectors[b.Device]
	if !ok { // table 28-14 has one network boot
		return fmt.Errorf("BMC %s: set boot device %s: IPMI has no such device; use pxe, or Redfish: %w", s.address, b.Device, power.ErrUnsupported)
	}
	err := s.do(ctx, "set boot device "+string(b.Device), func() error {
		// The firmware has not acted on the new flags yet. Not all BMCs keep that.
		if err := s.c.SetBootParamClearAck(ctx, types.BootInfoAcknowledgeByBIOSPOST); err != nil {
			if _, refused := completion(err); !refused {
				return err
			}
		}
		err := s.c.SetSystemBootOptionsParamFor(ctx, &types.BootOptionParam_BootFlags{
			BootFlagsValid:     b.Device != power.Default,
			Persist:            b.Persistent,
			BIOSBootType:       types.BIOSBootType(b.UEFI),
			BootDeviceSelector: want,
		})
		if err != nil {
			return err
		}
		// Some take the command and do nothing; it would be known only when the
		// chassis has booted the wrong thing.
		read := &types.BootOptionParam_BootFlags{}
		if err := s.c.GetSystemBootOptionsParamFor(ctx, read); err != nil {
			if _, refused := completion(err); refused {
				return nil
			}
			return err
		}
		got = read
		return nil
	})
	if err == nil && got != nil && got.BootDeviceSelector != want {
		return fmt.Errorf("BMC %s: set boot device %s: it took the command, yet has %q set: %w",
			s.address, b.Device, got.BootDeviceSelector, power.ErrUnsupported)
	}
	return err
}
