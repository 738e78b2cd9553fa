// Package clock sets the clock of the machine from NTP servers, as a client of
// SNTP (RFC 4330, updated by RFC 5905, section 14).
package clock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"
)

const (
	maxServers = 8
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

// query asks one server once.
func query(ctx context.Context, server string) (Result, error) {
	deadline, _ := ctx.Deadline()
	stop := func() bool { return false }
	defer func() { stop() }()
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{
		Timeout: max(time.Until(deadline), time.Millisecond), // zero would be the default
		Dialer: func(_, addr string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "udp", addr)
			if err == nil { // closed, not just timed out: the deadline is yet to be set
				stop = context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		},
	})
	if err != nil && ctx.Err() != nil { // then it may be of a closed connection
		err = ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no answer: %w", err)
	}
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return Result{}, err
	}
	if t := r.Timestamps.ServerXmit; t.Before(earliest) {
		return Result{}, fmt.Errorf("server says it is %s", t.Format(time.DateTime))
	}
	return Result{Server: server, Offset: r.ClockOffset, Delay: r.RTT}, nil
}
