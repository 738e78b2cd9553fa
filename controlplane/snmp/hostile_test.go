package snmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"
)

// device answers each request as the test says, with as many datagrams.
func device(t *testing.T, answer func(request *gosnmp.SnmpPacket) [][]byte) Target {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		decoder := &gosnmp.GoSNMP{Version: gosnmp.Version2c}
		b := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			request, err := decoder.SnmpDecodePacket(b[:n])
			if err != nil {
				continue
			}
			for _, datagram := range answer(request) {
				conn.WriteTo(datagram, from)
			}
		}
	}()
	return Target{Address: conn.LocalAddr().String(), Community: "public"}
}

func packet(t *testing.T, id uint32, vars ...gosnmp.SnmpPDU) []byte {
	t.Helper()
	b, err := (&gosnmp.SnmpPacket{Version: gosnmp.Version2c, Community: "public", PDUType: gosnmp.GetResponse, RequestID: id, Variables: vars}).MarshalMsg()
	if err != nil {
		t.Error(err)
	}
	return b
}

// Whatever a device answers, a call ends in time, with bounded rows or an error that
// names the device.
func TestHostileDevice(t *testing.T) {
	timeout = 500 * time.Millisecond
	t.Cleanup(func() { timeout = 3 * time.Second })
	integer := func(oid string) gosnmp.SnmpPDU {
		return gosnmp.SnmpPDU{Name: oid, Type: gosnmp.Integer, Value: 1}
	}
	next := 0
	big := strings.Repeat("x", 60_000)
	for name, answer := range map[string]func(*gosnmp.SnmpPacket) [][]byte{
		"endless": func(r *gosnmp.SnmpPacket) [][]byte {
			var vars []gosnmp.SnmpPDU
			for range repetitions {
				next++
				vars = append(vars, integer(fmt.Sprint(".1.3.6.1.", next)))
			}
			return [][]byte{packet(t, r.RequestID, vars...)}
		},
		"endless text": func(r *gosnmp.SnmpPacket) [][]byte {
			next++
			return [][]byte{packet(t, r.RequestID, gosnmp.SnmpPDU{Name: fmt.Sprint(".1.3.6.1.", next), Type: gosnmp.OctetString, Value: big})}
		},
		"again and again": func(r *gosnmp.SnmpPacket) [][]byte { return [][]byte{packet(t, r.RequestID, integer(".1.3.6.1.5"))} },
		"backwards": func(r *gosnmp.SnmpPacket) [][]byte {
			return [][]byte{packet(t, r.RequestID, integer(".1.3.6.1.9"), integer(".1.3.6.1.8"))}
		},
		"nothing": func(r *gosnmp.SnmpPacket) [][]byte { return [][]byte{packet(t, r.RequestID)} },
		"other":   func(r *gosnmp.SnmpPacket) [][]byte { return [][]byte{packet(t, r.RequestID, integer(".1.2.840"))} },
		"long name": func(r *gosnmp.SnmpPacket) [][]byte {
			return [][]byte{packet(t, r.RequestID, integer(".1.3.6.1"+strings.Repeat(".4294967295", 120)))}
		},
		"cut": func(r *gosnmp.SnmpPacket) [][]byte {
			b := packet(t, r.RequestID, integer(".1.3.6.1.5"))
			return [][]byte{b[:len(b)-3]}
		},
		"long length": func(r *gosnmp.SnmpPacket) [][]byte {
			b := packet(t, r.RequestID, integer(".1.3.6.1.5"))
			return [][]byte{append([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, b[2:]...), append([]byte{0x30, 0x80}, b[2:]...)}
		},
		"empty": func(*gosnmp.SnmpPacket) [][]byte {
			return [][]byte{{}, {0x30}, {0x30, 0x00}, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")}
		},
		"flood of other answers": func(r *gosnmp.SnmpPacket) [][]byte {
			b := packet(t, r.RequestID+1000, integer(".1.3.6.1.5"))
			var list [][]byte
			for range 20_000 {
				list = append(list, b)
			}
			return list
		},
	} {
		t.Run(name, func(t *testing.T) {
			next = 0
			target := device(t, answer)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began := time.Now()
			rows, _, err := Walk(ctx, target, "1.3.6.1", 0)
			bytes := 0
			for _, r := range rows {
				text, _ := r.Value.(string)
				bytes += len(r.OID) + len(text)
			}
			if len(rows) > MaxRows || bytes > maxBytes+maxText {
				t.Errorf("walk: %d rows of %d bytes", len(rows), bytes)
			}
			if err != nil && !strings.Contains(err.Error(), target.Address) {
				t.Errorf("walk: %v", err)
			}
			if name == "again and again" && (err == nil || len(rows) > 100) || name == "backwards" && (err == nil || len(rows) > 100) {
				t.Errorf("walk goes in circles: %d rows, %v", len(rows), err)
			}
			_, err = Get(ctx, target, []string{"1.3.6.1.5"})
			if err != nil && !strings.Contains(err.Error(), target.Address) {
				t.Errorf("get: %v", err)
			}
			if took := time.Since(began); took > 15*time.Second || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// A device that answers slowly, and each time with something, is left at the end of
// the time it is given.
func TestSlowDevice(t *testing.T) {
	next := 0
	target := device(t, func(r *gosnmp.SnmpPacket) [][]byte {
		time.Sleep(200 * time.Millisecond)
		next++
		return [][]byte{packet(t, r.RequestID, gosnmp.SnmpPDU{Name: fmt.Sprint(".1.3.6.1.", next), Type: gosnmp.Integer, Value: 1})}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, _, err := Walk(ctx, target, "1.3.6.1", 0)
	if took := time.Since(began); err == nil || took > 3*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}
