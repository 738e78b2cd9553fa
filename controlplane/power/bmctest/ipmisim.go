// Package bmctest gives tests a BMC to speak to: OpenIPMI's simulator ipmi_sim,
// which nobody here wrote, and a Redfish service.
package bmctest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/internal/need"
)

// Sim is a running ipmi_sim: a chassis with a temperature sensor, number 1,
// named "CPU Temp", that warns at 112, is critical at 144 and counts degrees
// Celsius, a discrete processor sensor, number 2, and an event log.
type Sim struct {
	Target  power.Target
	console string
	dir     string

	mu   sync.Mutex
	conn net.Conn // to the console
	out  *bufio.Reader
}

// A program that ipmi_sim asks for the chassis' power and boot device, and tells.
const chassisProgram = `#!/bin/sh
dir=$(dirname "$0")
echo "$*" >> "$dir/log"
op=$1
shift
while [ $# -gt 0 ]; do
	case $op in
	get) echo "$1:$(cat "$dir/$1")"; shift ;;
	set) if [ "$1" != reset ]; then echo "$2" > "$dir/$1"; fi; shift 2 ;;
	esac
done
`

const lanConfig = `name "teeth"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 %d
  priv_limit admin
  allowed_auths_callback none md2 md5 straight
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
console 127.0.0.1 %d
%s
user 1 true "" "none" user 10 none md2 md5 straight
user 2 true "%s" "%s" operator 10 none md2 md5 straight
`

const emulation = `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
sensor_add 0x20 0 1 0x01 0x01
sensor_set_value 0x20 0 1 0x60 0
sensor_set_threshold 0x20 0 1 settable 111000 0xa0 0x90 0x70 00 00 00
sensor_set_event_support 0x20 0 1 enable scanning per-state 000111111000000 000111111000000 000111111000000 000111111000000
sensor_add 0x20 0 2 0x07 0x6f
sensor_set_event_support 0x20 0 2 enable scanning per-state 000000111111111 000000111111111 000000111111111 000000111111111
sensor_set_bit 0x20 0 2 7 1 0
main_sdr_add 0x20 %s
main_sdr_add 0x20 %s
mc_enable 0x20
`

// fullSensor is a full sensor record, IPMI v2.0 table 43-1, for sensor 1.
func fullSensor(name string) []byte {
	b := []byte{
		0x20, 0x00, 0x01, // owner, LUN, number
		0x03, 0x01, 0x7f, 0x68, 0x01, 0x01, // processor 1, initialised, thresholds, temperature
		0x80, 0x0a, 0x80, 0x7a, 0x38, 0x38, // masks
		0x00, 0x01, 0x00, // unsigned, degrees C
		0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, // linear: M 1, B 0, exponents 0
		0x00, 0x60, 0x70, 0x20, 0xff, 0x00, // nominal, normal, range
		0xa0, 0x90, 0x70, 0x00, 0x00, 0x00, // thresholds
		0x01, 0x01, 0x00, 0x00, 0x00, // hysteresis
		0xc0 | byte(len(name)),
	}
	return append(b, name...)
}

// compactSensor is a compact sensor record, table 43-2, for sensor 2.
func compactSensor(name string) []byte {
	b := []byte{
		0x20, 0x00, 0x02,
		0x03, 0x01, 0x63, 0x40, 0x07, 0x6f,
		0xff, 0x01, 0xff, 0x01, 0xff, 0x01,
		0xc0, 0x00, 0x00,
		0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // shared by none, hysteresis, reserved, OEM
		0xc0 | byte(len(name)),
	}
	return append(b, name...)
}

func record(kind byte, body []byte) string {
	b := append([]byte{0, 0, 0x51, kind, byte(len(body))}, body...)
	words := make([]string, len(b))
	for i, c := range b {
		words[i] = fmt.Sprintf("%#02x", c)
	}
	return strings.Join(words, " ")
}

// StartSim starts ipmi_sim on loopback, until the test ends. more are further
// lines of its LAN configuration; without any, power is a file.
func StartSim(t testing.TB, more ...string) *Sim {
	t.Helper()
	program := need.Program(t, "ipmi_sim", "openipmi")
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if len(more) == 0 {
		more = []string{fmt.Sprintf("chassis_control %q", put("chassis", chassisProgram, 0o755))}
	}
	put("power", "0\n", 0o644)
	put("boot", "default\n", 0o644)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	lan, console := freePort(t, "udp"), freePort(t, "tcp")
	s := &Sim{
		Target: power.Target{
			Protocol: power.IPMI, Address: fmt.Sprintf("127.0.0.1:%d", lan), Username: "teeth", Password: "correct-horse-9",
		},
		console: fmt.Sprintf("127.0.0.1:%d", console),
		dir:     dir,
	}
	config := put("lan.conf", fmt.Sprintf(lanConfig, lan, console, strings.Join(more, "\n"), s.Target.Username, s.Target.Password), 0o600)
	emu := put("emu", fmt.Sprintf(emulation, record(1, fullSensor("CPU Temp")), record(2, compactSensor("CPU Status"))), 0o600)
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config, "-f", emu, "-s", state, "-n")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
		if s.conn != nil {
			s.conn.Close()
		}
	})
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if listens(lan) {
			break
		}
		if time.Since(start) > 10*time.Second {
			text, _ := os.ReadFile(out.Name())
			t.Fatalf("ipmi_sim does not come up: %s", text)
		}
	}
	return s
}

// Command gives ipmi_sim a command, e.g. "sensor_set_value 0x20 0 1 0x95 1".
func (s *Sim) Command(t testing.TB, command string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil { // one for all commands: ipmi_sim does not always survive that one is closed
		c, err := net.Dial("tcp", s.console)
		if err != nil {
			t.Fatal(err)
		}
		s.conn, s.out = c, bufio.NewReader(c)
		s.prompt(t, "start")
	}
	if _, err := fmt.Fprintf(s.conn, "%s\n", command); err != nil {
		t.Fatal(err)
	}
	s.prompt(t, command)
}

// prompt reads what the console says up to its next prompt.
func (s *Sim) prompt(t testing.TB, command string) {
	t.Helper()
	s.conn.SetDeadline(time.Now().Add(5 * time.Second))
	answer, err := s.out.ReadString('>')
	if err != nil || strings.Contains(answer, "**") {
		t.Fatalf("ipmi_sim: %s: %q, %v", command, answer, err)
	}
}

// Chassis returns what the chassis was last told: of "power" 0 or 1, of "boot" a
// device.
func (s *Sim) Chassis(t testing.TB, what string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, what))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// SetPower makes the chassis be on or off, as if somebody had pressed its button.
func (s *Sim) SetPower(t testing.TB, on bool) {
	t.Helper()
	value := "0\n"
	if on {
		value = "1\n"
	}
	if err := os.WriteFile(filepath.Join(s.dir, "power"), []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Told returns every order to the chassis, a line each.
func (s *Sim) Told(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var orders []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "set ") {
			orders = append(orders, strings.TrimSpace(line))
		}
	}
	return orders
}

// listens reports whether somebody listens on this UDP port of 127.0.0.1.
func listens(port int) bool {
	b, err := os.ReadFile("/proc/net/udp")
	return err == nil && strings.Contains(string(b), fmt.Sprintf(" 0100007F:%04X ", port))
}

func freePort(t testing.TB, network string) int {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).Port
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
