package snmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"

	"github.com/teeth-metal/teeth/internal/need"
)

// startAgent starts net-snmp's snmpd on loopback.
func startAgent(t *testing.T) string {
	t.Helper()
	program := need.Program(t, "snmpd", "snmpd")
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := c.LocalAddr().String()
	c.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "snmpd.conf")
	err = os.WriteFile(config, []byte(`agentaddress udp:`+address+`
rocommunity s3cret-community 127.0.0.1
sysDescr PDU of the test
sysContact noc@example.org
sysName pdu1
createUser teeth SHA-256 "auth-password" AES "priv-password"
rouser teeth priv
master no
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command(program, "-f", "-Lo", "-C", "-c", config, "-I", "-smux")
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	_, port, _ := net.SplitHostPort(address)
	var n int
	fmt.Sscan(port, &n)
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		b, _ := os.ReadFile("/proc/net/udp")
		if strings.Contains(string(b), fmt.Sprintf(" 0100007F:%04X ", n)) {
			return address
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("snmpd does not come up")
		}
	}
}

const system = "1.3.6.1.2.1.1"

func TestAgainstNetSNMP(t *testing.T) {
	address := startAgent(t)
	v3 := Target{Address: address, Version: "3", User: "teeth", AuthProtocol: "SHA256", AuthPassword: "auth-password",
		PrivProtocol: "AES", PrivPassword: "priv-password"}
	for name, target := range map[string]Target{
		"2c": {Address: address, Community: "s3cret-community"},
		"3":  v3,
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := Get(t.Context(), target, []string{system + ".1.0", "." + system + ".5.0", system + ".3.0", system + ".99.0"})
			if err != nil || len(rows) != 4 {
				t.Fatalf("%+v, %v", rows, err)
			}
			if rows[0].Value != "PDU of the test" || rows[1].Value != "pdu1" || rows[2].Type != "TimeTicks" || rows[3].Value != nil {
				t.Errorf("%+v", rows)
			}
			if _, ok := rows[2].Value.(int64); !ok {
				t.Errorf("sysUpTime is %T", rows[2].Value)
			}
			all, more, err := Walk(t.Context(), target, system, 0)
			if err != nil || more || len(all) < 7 || all[0].OID != system+".1.0" {
				t.Errorf("%d rows, more %v, %v", len(all), more, err)
			}
			some, more, err := Walk(t.Context(), target, "1.3.6.1.2.1", 30)
			if err != nil || !more || len(some) != 30 {
				t.Errorf("%d rows, more %v, %v", len(some), more, err)
			}
		})
	}
	wrong := v3
	wrong.AuthPassword = "another-password"
	if _, err := Get(t.Context(), wrong, []string{system + ".1.0"}); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "another-password") {
		t.Errorf("wrong password: %v", err)
	}
	wrong = v3
	wrong.User = "nobody"
	if _, err := Get(t.Context(), wrong, []string{system + ".1.0"}); !errors.Is(err, ErrRefused) {
		t.Errorf("wrong user: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	_, err := Get(ctx, Target{Address: address, Community: "guess-1"}, []string{system + ".1.0"})
	if !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "guess-1") || time.Since(start) > 5*time.Second {
		t.Errorf("wrong community: %v after %v", err, time.Since(start))
	}
}

func TestCheck(t *testing.T) {
	for name, target := range map[string]Target{
		"no address":         {Community: "x"},
		"bad port":           {Address: "h:99999", Community: "x"},
		"no community":       {Address: "h"},
		"version":            {Address: "h", Version: "1", Community: "x"},
		"no user":            {Address: "h", Version: "3"},
		"short password":     {Address: "h", Version: "3", User: "u", AuthProtocol: "SHA", AuthPassword: "short"},
		"privacy alone":      {Address: "h", Version: "3", User: "u", PrivProtocol: "AES", PrivPassword: "long-enough"},
		"unknown protocol":   {Address: "h", Version: "3", User: "u", AuthProtocol: "ROT13", AuthPassword: "long-enough"},
		"password of no use": {Address: "h", Version: "3", User: "u", AuthPassword: "long-enough"},
		"user with 2c":       {Address: "h", Community: "x", User: "u"},
	} {
		if err := target.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, address := range []string{"h", "h:1161", "10.0.0.1", "2001:db8::1", "[2001:db8::1]:161"} {
		if err := (Target{Address: address, Community: "x"}).Check(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, oid := range []string{"", "1", "sysDescr", "1.3.6.1.99999999999", "1.3..6", "3.1.2", "1.3.6.4294967296"} {
		if err := CheckOID(oid); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", oid, err)
		}
	}
}

// Whatever a device sends, its rows can be said in JSON.
func FuzzRows(f *testing.F) {
	packet := gosnmp.SnmpPacket{Version: gosnmp.Version2c, Community: "x", PDUType: gosnmp.GetResponse, RequestID: 1, Variables: []gosnmp.SnmpPDU{
		{Name: ".1.3.6.1.2.1.1.1.0", Type: gosnmp.OctetString, Value: "text"},
		{Name: ".1.3.6.1.2.1.1.3.0", Type: gosnmp.TimeTicks, Value: uint32(1 << 31)},
		{Name: ".1.3.6.1.2.1.31.1.1.1.6.1", Type: gosnmp.Counter64, Value: uint64(1 << 63)},
		{Name: ".1.3.6.1.2.1.1.2.0", Type: gosnmp.ObjectIdentifier, Value: ".1.3.6.1.4.1.8072"},
	}}
	seed, err := packet.MarshalMsg()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("\x30\x1f\x02\x01\x01\x04\x01x\xa2\x17\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x0c\x30\x0a\x06\x02\x2b\x06\x44\x04\x9f\x78\x04\x7f\xc0\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &gosnmp.GoSNMP{Version: gosnmp.Version2c, Community: "x"}
		var rows []Row
		func() {
			defer func() { recover() }() // as run does
			p, err := g.SnmpDecodePacket(b)
			if err != nil {
				return
			}
			for _, v := range p.Variables {
				rows = append(rows, row(v))
			}
		}()
		out, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		var back []Row
		if err := json.Unmarshal(out, &back); err != nil || len(back) != len(rows) {
			t.Errorf("%s: %v", out, err)
		}
	})
}
