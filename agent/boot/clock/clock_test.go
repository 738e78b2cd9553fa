package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

const (
	packetSize = 48
	ntpEpoch   = -2208988800 // 1 January 1900 in Unix seconds
)

// server answers NTP requests on a port of this machine with answer, which may
// change the correct reply or return nil to stay silent.
func server(t *testing.T, offset time.Duration, answer func(reply []byte) []byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1024)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n != packetSize || buf[0] != 0x23 {
				continue
			}
			r := make([]byte, packetSize)
			r[0], r[1] = 4<<3|4, 2
			copy(r[24:32], buf[40:48])
			now := time.Now().Add(offset)
			binary.BigEndian.PutUint64(r[16:], toNTP(now.Add(-time.Minute))) // last set
			binary.BigEndian.PutUint64(r[32:], toNTP(now))
			binary.BigEndian.PutUint64(r[40:], toNTP(now))
			if answer != nil {
				r = answer(r)
			}
			if r != nil {
				_, _ = c.WriteTo(r, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

func toNTP(t time.Time) uint64 {
	return uint64(t.Unix()-ntpEpoch)<<32 | uint64(t.Nanosecond())<<32/1e9
}

func near(a, b time.Duration) bool { return (a - b).Abs() < 5*time.Second }

func TestMeasure(t *testing.T) {
	hour := server(t, time.Hour, nil)
	exact := server(t, 0, nil)
	day := server(t, -24*time.Hour, nil)
	silent := server(t, 0, func([]byte) []byte { return nil })
	set := func(i int, b byte) func([]byte) []byte {
		return func(r []byte) []byte { r[i] = b; return r }
	}
	tests := []struct {
		name    string
		servers []string
		offset  time.Duration
		err     string
	}{
		{"one", []string{hour}, time.Hour, ""},
		{"behind", []string{day}, -24 * time.Hour, ""},
		{"the middle of three", []string{day, hour, exact}, 0, ""},
		{"one of two is silent", []string{silent, hour}, time.Hour, ""},
		{"silent", []string{silent}, 0, "no answer"},
		{"none", nil, 0, "no usable NTP answer"},
		{"kiss of death", []string{server(t, 0, set(1, 0))}, 0, "kiss of death"},
		{"not synchronised", []string{server(t, 0, set(0, 3<<6|4<<3|4))}, 0, "invalid leap second"},
		{"stratum 16", []string{server(t, 0, set(1, 16))}, 0, "invalid stratum"},
		{"client's mode", []string{server(t, 0, set(0, 4<<3|3))}, 0, "invalid mode"},
		{"forged", []string{server(t, 0, set(24, 0xff))}, 0, "match request"},
		{"short", []string{server(t, 0, func(r []byte) []byte { return r[:47] })}, 0, "invalid time"},
		{"not set for days", []string{server(t, 0, func(r []byte) []byte {
			binary.BigEndian.PutUint64(r[16:], toNTP(time.Now().Add(-50*time.Hour)))
			return r
		})}, 0, "not fresh"},
		{"answered before it was asked", []string{server(t, 0, set(32, 0xff))}, 0, "backwards"},
		{"next era", []string{server(t, 20*365*24*time.Hour, nil)}, 20 * 365 * 24 * time.Hour, ""},
		{"year 2004", []string{server(t, -22*365*24*time.Hour, nil)}, 0, "server says it is"},
		{"not a host", []string{"no such host.invalid"}, 0, "NTP server no such host.invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := measure(t.Context(), tt.servers, time.Second)
			switch {
			case tt.err == "" && err != nil:
				t.Fatal(err)
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if !near(r.Offset, tt.offset) || r.Delay < 0 || r.Delay > 5*time.Second || r.Set {
				t.Errorf("got %+v, want offset %s", r, tt.offset)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	_, err := measure(ctx, []string{server(t, 0, func([]byte) []byte { return nil })}, time.Minute)
	if err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestSync(t *testing.T) {
	var got time.Time
	set := func(to time.Time) error { got = to; return nil }
	r, err := syncBy(t.Context(), []string{server(t, time.Hour, nil)}, 5*time.Second, set)
	if err != nil || !r.Set || !near(time.Until(got), time.Hour) {
		t.Errorf("an hour behind: %+v, %v, set to %s", r, err, got)
	}
	refuse := func(time.Time) error { return errors.New("not permitted") }
	if r, err := syncBy(t.Context(), []string{server(t, time.Hour, nil)}, 5*time.Second, refuse); err == nil || r.Set {
		t.Errorf("refused: %+v, %v", r, err)
	}
	never := func(time.Time) error { t.Error("the clock was set without an answer"); return nil }
	if _, err := syncBy(t.Context(), []string{server(t, 0, func([]byte) []byte { return nil })}, 100*time.Millisecond, never); err == nil {
		t.Error("no error without an answer")
	}
	// The time a reply takes may look like an error of the clock, so this
	// does not say that nothing is set, but by how little.
	r, err = syncBy(t.Context(), []string{server(t, 0, nil)}, 5*time.Second, set)
	if err != nil || !near(r.Offset, 0) {
		t.Errorf("a good clock: %+v, %v", r, err)
	}
}
