// Package clock sets the clock of the machine from NTP servers, as a client of
// SNTP (RFC 4330, updated by RFC 5905, section 14).
package clock

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	port       = "123"
	packetSize = 48
	maxServers = 8
	// ntpEpoch is 1 January 1900 in Unix seconds.
	ntpEpoch = -2208988800
	// step is the least error worth setting the clock for.
	step = 50 * time.Millisecond
)

// earliest is before any release of this program: a server that says less is
// broken.
var earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// Result is what came of a successful Sync.
type Result struct {
	Server string        // the server whose answer was taken
	Offset time.Duration // how far the clock was behind
	Delay  time.Duration // round trip to the server
	Set    bool          // whether the clock was off enough to be set
}

// Sync asks all servers (host or host:port, at most eight) at once and sets
// the clock by the answer in the middle, so that one wrong server among three
// does no harm. It takes no longer than timeout. When no server gives a usable
// answer the clock is left alone.
func Sync(ctx context.Context, servers []string, timeout time.Duration) (Result, error) {
	return syncBy(ctx, servers, timeout, func(t time.Time) error {
		ts := unix.NsecToTimespec(t.UnixNano())
		return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	})
}

func syncBy(ctx context.Context, servers []string, timeout time.Duration, set func(time.Time) error) (Result, error) {
	r, err := measure(ctx, servers, timeout)
	if err != nil || r.Offset.Abs() < step {
		return r, err
	}
	if err := set(time.Now().Add(r.Offset)); err != nil {
		return r, fmt.Errorf("set clock: %w", err)
	}
	r.Set = true
	return r, nil
}

// measure is Sync without setting the clock.
func measure(ctx context.Context, servers []string, timeout time.Duration) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	servers = servers[:min(len(servers), maxServers)]
	type answer struct {
		Result
		err error
	}
	answers := make(chan answer, len(servers))
	for _, s := range servers {
		go func() {
			r, err := query(ctx, s)
			if err != nil {
				err = fmt.Errorf("NTP server %s: %w", s, err)
			}
			answers <- answer{r, err}
		}()
	}
	var good []Result
	var errs []error
	for range servers {
		if a := <-answers; a.err != nil {
			errs = append(errs, a.err)
		} else {
			good = append(good, a.Result)
		}
	}
	if len(good) == 0 {
		return Result{}, errors.Join(append(errs, errors.New("clock not set: no usable NTP answer"))...)
	}
	slices.SortFunc(good, func(a, b Result) int { return cmp.Compare(a.Offset, b.Offset) })
	return good[(len(good)-1)/2], nil
}

func query(ctx context.Context, server string) (Result, error) {
	addr := server
	if _, _, err := net.SplitHostPort(server); err != nil {
		addr = net.JoinHostPort(server, port)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return Result{}, err
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()

	// The transmit time of the request comes back as the originate time. A
	// random one tells the answer from a forged one and tells nobody our
	// clock (RFC 9109's reasoning).
	req := make([]byte, packetSize)
	req[0] = 0<<6 | 4<<3 | 3 // no leap warning, version 4, client
	if _, err := rand.Read(req[40:48]); err != nil {
		return Result{}, err
	}
	t1 := time.Now()
	if _, err := c.Write(req); err != nil {
		return Result{}, err
	}
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return Result{}, err
		}
		t4 := time.Now()
		a, err := parse(buf[:n])
		if err != nil || a.originate != binary.BigEndian.Uint64(req[40:]) {
			continue // not the answer to our question
		}
		if err := a.usable(); err != nil {
			return Result{}, err
		}
		// RFC 5905, section 8. t4 is taken by the monotonic clock.
		delay := t4.Sub(t1) - a.transmit.Sub(a.receive)
		if delay < 0 {
			delay = 0
		}
		mid := t1.Round(0).Add(t4.Sub(t1) / 2)
		offset := a.receive.Add(a.transmit.Sub(a.receive) / 2).Sub(mid)
		return Result{Server: server, Offset: offset, Delay: delay}, nil
	}
}

// message is what we need of a server's answer.
type message struct {
	leap, mode, stratum byte
	originate           uint64
	receive, transmit   time.Time
}

func parse(b []byte) (message, error) {
	if len(b) < packetSize {
		return message{}, fmt.Errorf("answer of %d bytes is too short", len(b))
	}
	be := binary.BigEndian
	return message{
		leap: b[0] >> 6, mode: b[0] & 7, stratum: b[1],
		originate: be.Uint64(b[24:]),
		receive:   fromNTP(be.Uint64(b[32:])),
		transmit:  fromNTP(be.Uint64(b[40:])),
	}, nil
}

func (m message) usable() error {
	switch {
	case m.mode != 4:
		return fmt.Errorf("answer is of mode %d, not a server's", m.mode)
	case m.stratum == 0:
		return errors.New("server refuses to serve (kiss of death)")
	case m.leap == 3 || m.stratum > 15:
		return errors.New("server is not synchronised itself")
	case m.transmit.Before(earliest):
		return fmt.Errorf("server says it is %s", m.transmit.Format(time.DateTime))
	case m.transmit.Before(m.receive):
		return errors.New("server answered before it was asked")
	}
	return nil
}

// fromNTP turns a 32.32 bit timestamp into a time. Values without the top bit
// are of the era that begins in 2036 (RFC 4330, section 3).
func fromNTP(v uint64) time.Time {
	secs := int64(v >> 32)
	if secs&0x80000000 == 0 {
		secs += 1 << 32
	}
	return time.Unix(secs+ntpEpoch, int64(v&0xffffffff)*1e9>>32).UTC()
}
