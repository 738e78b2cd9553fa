package power_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
	"github.com/teeth-metal/teeth/controlplane/power/ipmi"
	"github.com/teeth-metal/teeth/controlplane/power/redfish"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

var protocols = map[string]power.Protocol{
	power.IPMI:    {Open: ipmi.Open, Check: ipmi.Check},
	power.Redfish: {Open: redfish.Open, Check: redfish.Check},
}

func newService(t *testing.T, protocols map[string]power.Protocol) (s *power.Service, chassis, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := db.Connect(t.Context(), store.Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b1"}})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(strings.Repeat("0123456789", 4))
	if err != nil {
		t.Fatal(err)
	}
	return power.New(power.Config{Store: db, Sealer: sealer, Protocols: protocols, Log: slog.New(slog.DiscardHandler)}), c.ID, path
}

func bmc(chassis string, t power.Target) store.BMC {
	return store.BMC{Chassis: chassis, Protocol: t.Protocol, Address: t.Address, Username: t.Username, CertSHA256: t.CertSHA256, Insecure: t.Insecure}
}

func TestServiceWithBMCs(t *testing.T) {
	for name, start := range map[string]func(testing.TB) power.Target{
		"ipmi":    func(t testing.TB) power.Target { return bmctest.StartSim(t).Target },
		"redfish": func(t testing.TB) power.Target { return bmctest.StartService(t).Target },
	} {
		t.Run(name, func(t *testing.T) {
			target := start(t)
			s, chassis, path := newService(t, protocols)
			if _, err := s.State(t.Context(), chassis); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("without BMC: %v", err)
			}
			if _, _, err := s.SetBMC(t.Context(), bmc(chassis, target), "wrong-guess", true); !errors.Is(err, power.ErrDenied) {
				t.Errorf("probe with a wrong password: %v", err)
			}
			_, info, err := s.SetBMC(t.Context(), bmc(chassis, target), target.Password, true)
			if err != nil || info == nil || info.State != power.Off {
				t.Fatalf("%+v, %v", info, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for _, a := range []power.Action{power.TurnOn, power.Cycle, power.TurnOff} {
				if err := s.SetAndWait(ctx, chassis, a); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.SetBoot(ctx, chassis, power.Boot{Device: power.PXE}); err != nil {
				t.Error(err)
			}
			if sensors, err := s.Sensors(ctx, chassis); err != nil || len(sensors) != 2 {
				t.Errorf("%v, %v", sensors, err)
			}
			// The password is nowhere in what the store has on disk.
			files, _ := filepath.Glob(path + "*")
			for _, f := range files {
				if b, err := os.ReadFile(f); err != nil || strings.Contains(string(b), target.Password) {
					t.Errorf("%s holds the password, or cannot be read: %v", f, err)
				}
			}
		})
	}
}

// fake is a BMC whose answers the test makes.
type fake struct {
	power.Controller
	state func() (power.State, error)
	set   func(power.Action) error
	close func()
}

func (f *fake) State(context.Context) (power.State, error)  { return f.state() }
func (f *fake) Set(_ context.Context, a power.Action) error { return f.set(a) }
func (f *fake) Close(context.Context) error                 { f.close(); return nil }
func withFake(open func() (*fake, error)) map[string]power.Protocol {
	return map[string]power.Protocol{power.IPMI: {
		Check: func(power.Target) error { return nil },
		Open: func(context.Context, power.Target) (power.Controller, error) {
			f, err := open()
			if err != nil {
				return nil, err
			}
			return f, nil
		},
	}}
}

func TestOneSessionAtATime(t *testing.T) {
	var open, most, ever atomic.Int32
	s, chassis, _ := newService(t, withFake(func() (*fake, error) {
		ever.Add(1)
		most.Store(max(most.Load(), open.Add(1)))
		return &fake{
			state: func() (power.State, error) { time.Sleep(5 * time.Millisecond); return power.On, nil },
			close: func() { open.Add(-1) },
		}, nil
	}))
	if _, _, err := s.SetBMC(t.Context(), store.BMC{Chassis: chassis, Protocol: power.IPMI, Address: "bmc1"}, "x", false); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := s.State(t.Context(), chassis); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most.Load() != 1 || ever.Load() != 20 || open.Load() != 0 {
		t.Errorf("at most %d at a time, %d in all, %d left open", most.Load(), ever.Load(), open.Load())
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	lost := fmt.Errorf("bmc1: %w", power.ErrUnreachable)
	for _, c := range []struct {
		name        string
		action      power.Action
		open, set   error
		opens, sets int32
	}{
		{"no session", power.Cycle, lost, nil, 3, 0},
		{"refused", power.Cycle, power.ErrDenied, nil, 1, 0},
		{"turn on, answer lost", power.TurnOn, nil, lost, 3, 3},
		{"cycle, answer lost", power.Cycle, nil, lost, 1, 1}, // twice would be another cycle
		{"shutdown, answer lost", power.Shutdown, nil, lost, 1, 1},
		{"turn on, impossible", power.TurnOn, nil, power.ErrUnsupported, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var opens, sets atomic.Int32
			s, chassis, _ := newService(t, withFake(func() (*fake, error) {
				opens.Add(1)
				return &fake{set: func(power.Action) error { sets.Add(1); return c.set }, close: func() {}}, c.open
			}))
			if _, _, err := s.SetBMC(t.Context(), store.BMC{Chassis: chassis, Protocol: power.IPMI, Address: "bmc1"}, "x", false); err != nil {
				t.Fatal(err)
			}
			err := s.Set(t.Context(), chassis, c.action)
			if want := errors.Join(c.open, c.set); !errors.Is(err, c.open) && !errors.Is(err, c.set) || err == nil {
				t.Errorf("%v, want %v", err, want)
			}
			if opens.Load() != c.opens || sets.Load() != c.sets {
				t.Errorf("%d sessions, %d orders; want %d and %d", opens.Load(), sets.Load(), c.opens, c.sets)
			}
		})
	}
}
