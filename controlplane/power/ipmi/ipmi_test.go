package ipmi

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
	"github.com/teeth-metal/teeth/internal/need"
)

func open(t *testing.T, target power.Target) power.Controller {
	t.Helper()
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		start := time.Now()
		defer func() { t.Logf("closed in %v", time.Since(start)) }()
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestPower(t *testing.T) {
	sim := bmctest.StartSim(t)
	c := open(t, sim.Target)
	state := func(want power.State) {
		t.Helper()
		if got, err := c.State(t.Context()); err != nil || got != want {
			t.Fatalf("state %q, %v; want %q", got, err, want)
		}
	}
	state(power.Off)
	if err := c.Set(t.Context(), power.TurnOn); err != nil {
		t.Fatal(err)
	}
	state(power.On)
	for _, a := range []power.Action{power.Reset, power.Cycle, power.TurnOff} {
		if err := c.Set(t.Context(), a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	state(power.Off)
	// Of a chassis that is off, cycle and reset make one that is on.
	if err := c.Set(t.Context(), power.Cycle); err != nil {
		t.Fatal(err)
	}
	state(power.On)
	if err := c.Set(t.Context(), "explode"); !errors.Is(err, power.ErrInvalid) {
		t.Errorf("unknown action: %v", err)
	}
}

func TestBootDevice(t *testing.T) {
	sim := bmctest.StartSim(t)
	c := open(t, sim.Target)
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.PXE}); err != nil {
		t.Fatal(err)
	}
	if got := sim.Chassis(t, "boot"); got != "pxe" {
		t.Errorf("the chassis boots from %q", got)
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.Disk}); err != nil {
		t.Fatal(err)
	}
	if got := sim.Chassis(t, "boot"); got != "default" {
		t.Errorf("the chassis boots from %q", got)
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.HTTP}); !errors.Is(err, power.ErrUnsupported) || !strings.Contains(err.Error(), "use pxe") {
		t.Errorf("http over IPMI: %v", err)
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: "tape"}); !errors.Is(err, power.ErrInvalid) {
		t.Errorf("unknown device: %v", err)
	}
}

func TestSensors(t *testing.T) {
	sim := bmctest.StartSim(t)
	c := open(t, sim.Target)
	read := func() []power.Sensor {
		t.Helper()
		list, err := c.Sensors(t.Context())
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list
	}
	list := read()
	temp, cpu := list[0], list[1]
	if temp.Name != "CPU Temp" || temp.Type != "Temperature" || temp.Value == nil || *temp.Value != 0x60 ||
		temp.Unit != "degrees C" || temp.Status != power.StatusOK {
		t.Errorf("%+v", temp)
	}
	if cpu.Name != "CPU Status" || cpu.Value != nil || len(cpu.States) != 1 || !strings.Contains(cpu.States[0], "resence") {
		t.Errorf("%+v", cpu)
	}
	sim.Command(t, "sensor_set_value 0x20 0 1 0x71 0")
	if temp := read()[0]; temp.Status != power.StatusWarning || *temp.Value != 0x71 {
		t.Errorf("above the upper non-critical threshold: %+v", temp)
	}
	sim.Command(t, "sensor_set_value 0x20 0 1 0x95 0")
	if temp := read()[0]; temp.Status != power.StatusCritical {
		t.Errorf("above the upper critical threshold: %+v", temp)
	}
}

func TestEvents(t *testing.T) {
	sim := bmctest.StartSim(t)
	c := open(t, sim.Target)
	log, err := c.Events(t.Context(), "", 0)
	if err != nil || log.Total != 0 || len(log.Events) != 0 {
		t.Fatalf("%+v, %v", log, err)
	}
	// Power supply failure, then a temperature over its critical threshold.
	sim.Command(t, "sel_add 0x20 0x02 0x00 0x94 0x35 0x65 0x20 0x00 0x04 0x08 0x30 0x6f 0x01 0xff 0xff")
	sim.Command(t, "sel_add 0x20 0x02 0x10 0x94 0x35 0x65 0x20 0x00 0x04 0x01 0x01 0x01 0x59 0x95 0x90")
	log, err = c.Events(t.Context(), "", 0)
	if err != nil || len(log.Events) != 2 || log.Total != 2 {
		t.Fatalf("%+v, %v", log, err)
	}
	first, second := log.Events[0], log.Events[1]
	if first.SensorType != "Power Supply" || first.Sensor != "0x30" || first.Severity != power.Critical ||
		!strings.Contains(first.Message, "ailure") || first.Time != nil { // the simulator's clock counts from its start
		t.Errorf("%+v", first)
	}
	if second.SensorType != "Temperature" || second.Severity != power.Critical || len(second.Raw) != 32 {
		t.Errorf("%+v", second)
	}
	newer, err := c.Events(t.Context(), first.ID, 0)
	if err != nil || len(newer.Events) != 1 || newer.Events[0].ID != second.ID {
		t.Errorf("after %s: %+v, %v", first.ID, newer, err)
	}
	if newer, err = c.Events(t.Context(), second.ID, 0); err != nil || len(newer.Events) != 0 {
		t.Errorf("after the last: %+v, %v", newer, err)
	}
	if all, err := c.Events(t.Context(), "0bad", 0); err != nil || len(all.Events) != 2 {
		t.Errorf("after one that is not there: %+v, %v", all, err)
	}
	if one, err := c.Events(t.Context(), "", 1); err != nil || len(one.Events) != 1 || !one.Truncated || one.Events[0].ID != second.ID {
		t.Errorf("the newest: %+v, %v", one, err)
	}
}

func TestInfo(t *testing.T) {
	sim := bmctest.StartSim(t)
	info, err := open(t, sim.Target).Info(t.Context())
	if err != nil || info.Version != "2.0" || info.State != power.Off || info.Firmware == "" || info.Address != sim.Target.Address {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestRefusals(t *testing.T) {
	sim := bmctest.StartSim(t)
	nobody, err := net.ListenPacket("udp", "127.0.0.1:0") // which never answers
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	for name, c := range map[string]struct {
		change func(*power.Target)
		want   error
	}{
		"wrong password": {func(t *power.Target) { t.Password = "guess" }, power.ErrDenied},
		"wrong user":     {func(t *power.Target) { t.Username = "nobody" }, power.ErrDenied},
		"long password":  {func(t *power.Target) { t.Password = strings.Repeat("x", 21) }, power.ErrInvalid},
		"long user":      {func(t *power.Target) { t.Username = strings.Repeat("x", 17) }, power.ErrInvalid},
		"bad address":    {func(t *power.Target) { t.Address = "a:b:c" }, power.ErrInvalid},
		"closed port":    {func(t *power.Target) { t.Address = "127.0.0.1:1" }, power.ErrUnreachable},
		"no answer":      {func(t *power.Target) { t.Address = nobody.LocalAddr().String() }, power.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			target := sim.Target
			c.change(&target)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			_, err := Open(ctx, target)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), target.Address) || strings.Contains(err.Error(), target.Password) {
				t.Errorf("%v", err)
			}
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("took %v", d)
			}
			t.Log(err)
		})
	}
	if state, err := open(t, sim.Target).State(t.Context()); err != nil || state != power.Off {
		t.Errorf("afterwards: %s, %v", state, err)
	}
}

// What ipmitool sees after we have set it, and the other way round.
func TestAgreesWithIpmitool(t *testing.T) {
	tool := need.Program(t, "ipmitool", "ipmitool")
	sim := bmctest.StartSim(t)
	host, port, _ := net.SplitHostPort(sim.Target.Address)
	run := func(words ...string) string {
		t.Helper()
		out, err := exec.Command(tool, slices.Concat([]string{"-I", "lanplus", "-C", "3", "-L", "OPERATOR", "-H", host, "-p", port,
			"-U", sim.Target.Username, "-P", sim.Target.Password}, words)...).CombinedOutput()
		if err != nil {
			t.Logf("ipmitool %v: %v", words, err) // it may not know a command of the simulator
		}
		return string(out)
	}
	c := open(t, sim.Target)
	if err := c.Set(t.Context(), power.TurnOn); err != nil {
		t.Fatal(err)
	}
	if out := run("chassis", "power", "status"); !strings.Contains(out, "is on") {
		t.Errorf("power status: %s", out)
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.PXE}); err != nil {
		t.Fatal(err)
	}
	if out := run("chassis", "bootparam", "get", "5"); !strings.Contains(out, "Force PXE") {
		t.Errorf("boot flags: %s", out)
	}
	if out := run("chassis", "power", "off"); !strings.Contains(out, "Off") {
		t.Errorf("power off: %s", out)
	}
	if state, err := c.State(t.Context()); err != nil || state != power.Off {
		t.Errorf("%s, %v", state, err)
	}
	sim.Command(t, "sel_add 0x20 0x02 0x00 0x94 0x35 0x65 0x20 0x00 0x04 0x08 0x30 0x6f 0x01 0xff 0xff")
	out := run("sel", "list")
	log, err := c.Events(t.Context(), "", 0)
	if err != nil || len(log.Events) != 1 {
		t.Fatalf("%+v, %v", log, err)
	}
	for _, want := range []string{"Power Supply", "#0x30", "Failure detected"} {
		if !strings.Contains(out, want) {
			t.Errorf("ipmitool: %s", out)
		}
	}
	if out := run("sensor", "reading", "CPU Temp"); !strings.Contains(out, "96") {
		t.Errorf("sensor: %s", out)
	}
}
