package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
}

// credentials are what the boot script gives a chassis.
func credentials(t *testing.T, dir string) (pin, token string) {
	t.Helper()
	conf, err := client.Load(filepath.Join(dir, "data", "client.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "data", "enrol.token"))
	if err != nil {
		t.Fatal(err)
	}
	return conf.CASHA256, strings.TrimSpace(string(b))
}

// TestOtherDisk swaps a disk between the order to erase and the erasure: the
// agent must refuse, and leave the disk as it is.
func TestOtherDisk(t *testing.T) {
	t.Parallel()
	c := control(t)
	pin, token := credentials(t, c.Dir)
	args := "teeth.server=" + c.AgentsFromChassis() + " teeth.ca_sha256=" + pin + " teeth.token=" + token
	spec := direct(lab.Spec{Name: "swap", Dir: t.TempDir(), Memory: 256 << 20, NIC: "e1000e", Disks: []lab.Disk{
		{Bus: "sata", Size: 64 << 20, Serial: "RIGHT"}, {Bus: "scsi", Size: 64 << 20, Serial: "OTHER"},
	}}, args)
	for i, d := range spec.Disks {
		fill(t, filepath.Join(spec.Dir, []string{"disk0.raw", "disk1.raw"}[i]), d.Size)
	}
	chassis := power(t, spec)
	ctx := within(t, 5*time.Minute)
	if _, err := c.WaitChassis(ctx, "LAB-SWAP", func(ch client.Chassis) bool { return ch.Connected && ch.Inspected != nil }); err != nil {
		t.Fatal(err)
	}
	if err := chassis.PowerCut(); err != nil {
		t.Fatal(err)
	}
	run, err := c.Decommission(ctx, "LAB-SWAP", client.Decommission{Disks: []string{"RIGHT"}})
	if err != nil {
		t.Fatal(err)
	}
	spec.Disks[0].Serial = "WRONG"
	chassis = power(t, spec)
	_, err = c.Follow(within(t, 5*time.Minute), run.ID, nil)
	if err == nil || !strings.Contains(err.Error(), "RIGHT") {
		t.Fatalf("got %v, want a refusal that names the disk", err)
	}
	for i := range chassis.Spec.Disks {
		if off, err := lab.Search(chassis.Spec.DiskPath(i), []byte(secret)); err != nil || off != 0 {
			t.Errorf("disk %d was touched: data at %d (%v)", i, off, err)
		}
	}
}

// TestOtherAuthority boots a chassis that pins another CA. It also shows a clean
// reboot by ctrl-alt-del.
func TestOtherAuthority(t *testing.T) {
	t.Parallel()
	c := control(t)
	_, token := credentials(t, c.Dir)
	spec := direct(lab.Spec{Name: "pin", Dir: t.TempDir(), Memory: 256 << 20},
		"teeth.server="+c.AgentsFromChassis()+" teeth.ca_sha256="+strings.Repeat("ab", 32)+" teeth.token="+token)
	chassis := power(t, spec)
	end, err := chassis.ExpectSerial(within(t, 4*time.Minute), 0, "does not come from the pinned CA")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.ListChassis(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v; the chassis must not have introduced itself", all, err)
	}
	if err := chassis.CtrlAltDel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end, err = chassis.ExpectSerial(within(t, 4*time.Minute), end, "ctrl-alt-del"); err != nil {
		t.Fatal(err)
	}
	if _, err = chassis.ExpectSerial(within(t, 4*time.Minute), end, "Linux version"); err != nil {
		t.Fatal(err)
	}
}

// TestLongLine sends the real server a line of 600 KiB.
func TestLongLine(t *testing.T) {
	t.Parallel()
	c := control(t)
	_, token := credentials(t, c.Dir)
	conn, err := tls.Dial("tcp", c.Agents, &tls.Config{InsecureSkipVerify: true}) // the server is ours
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline(t, conn)
	in := bufio.NewReader(conn)
	hello, err := teeth.NewCommand("1", teeth.MethodHandshake, teeth.Handshake{ID: "52:54:00:00:00:01", Version: "test", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if err := teeth.NewWriter(conn).WriteMessage(hello); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, `"result"`) {
		t.Fatalf("handshake was answered with %q, %v", line, err)
	}
	// The write may fail half-way: the server closes without reading on.
	conn.Write(append(bytes.Repeat([]byte(" "), 600<<10), '\n'))
	rest, _ := io.ReadAll(in)
	if strings.Contains(string(rest), "fatal_error") {
		t.Errorf("got %q; the original closes without a word", rest)
	}
	for range 100 {
		if ch, err := c.Chassis(t.Context(), "52:54:00:00:00:01"); err == nil && !ch.Connected {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the session goes on after a line of 600 KiB")
}

// TestOriginalAgent speaks to the real server as the original agent did.
func TestOriginalAgent(t *testing.T) {
	t.Parallel()
	c := control(t)
	conn, err := net.Dial("tcp", c.InsecureAgents)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline(t, conn)
	in := bufio.NewReader(conn)
	say := func(line string) {
		if _, err := io.WriteString(conn, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"id": "7ad6f0a3-2c1a-4b3c-8a53-000000000001", "version": "v1", "method": "handshake", "params": {"id": "a:b:c:d", "version": "0.1-dev"}}`)
	hear := func() (m struct {
		ID     json.RawMessage
		Method string
		Params map[string]any
		Result json.RawMessage
	}) {
		line, err := in.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(line, []byte("fatal_error")) {
			t.Fatalf("the server ended the session: %s", line)
		}
		decode(t, line, &m)
		return m
	}
	if m := hear(); m.Result == nil {
		t.Fatalf("handshake was answered with %+v", m)
	}
	say(`{"id": "7ad6f0a3-2c1a-4b3c-8a53-000000000002", "version": "v1", "method": "ping", "params": {}}`)
	sawStatus, sawPing := false, false
	for !sawStatus || !sawPing {
		m := hear()
		switch m.Method {
		case "":
			sawPing = string(m.Result) == "{}"
		case "status":
			sawStatus = true
			if len(m.Params) != 0 {
				t.Errorf("status has params %v, which the original does not know", m.Params)
			}
			say(`{"id": ` + string(m.ID) + `, "version": "v1", "result": {"mode": "STANDBY", "uptime": 12.5, "version": "0.1-dev"}}`)
		default:
			t.Fatalf("%q would end the original's session", m.Method)
		}
	}
	if _, err := c.WaitChassis(within(t, 10*time.Second), "a:b:c:d", func(ch client.Chassis) bool { return ch.Connected && ch.Version == teeth.LegacyVersion }); err != nil {
		t.Error(err)
	}
}

func deadline(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}
