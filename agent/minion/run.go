package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// denied is how many failed rounds a server's refusal counts as: what it is refused
// for does not change by asking often.
const denied = 6

var errDenied = errors.New("the StreamServer refuses this agent")

// Run delivers records until ctx ends, and returns ctx's error. Before SetTarget it
// waits.
func (c *Client) Run(ctx context.Context) error {
	out := c.outgoing()
	out.commands = ctx
	defer out.r.Close()
	for ctx.Err() == nil {
		c.mu.Lock()
		target, changed := c.target, c.changed
		c.mu.Unlock()
		of, cancel := context.WithCancel(ctx)
		go func() {
			defer cancel()
			select {
			case <-changed:
			case <-of.Done():
			}
		}()
		if target == nil {
			<-of.Done()
		} else {
			c.deliver(of, target, out)
		}
		cancel()
	}
	return ctx.Err()
}

// deliver delivers to one target until ctx ends: over a connection when there is
// one, over the session when there has been none for a while.
func (c *Client) deliver(ctx context.Context, t *Target, out *outgoing) {
	conns := make(chan *conn)
	approved := make(chan struct{}, 1)
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		c.connect(ctx, t, conns, approved)
	}()
	defer func() { <-dialled }()
	alone := time.Now()
	var notBefore time.Time // of the session
	for ctx.Err() == nil {
		pause := time.Minute
		if c.opt.Session != nil {
			wait := time.Until(notBefore)
			if len(t.Addresses) > 0 && c.hurry.Load() == 0 {
				wait = max(wait, time.Until(alone.Add(c.timers.patience)))
			}
			if wait > 0 {
				pause = min(wait, 200*time.Millisecond) // Flush may be called meanwhile
			} else {
				refused := out.said != ""
				more, err := c.overSession(ctx, t, out)
				if err != nil {
					notBefore, pause = time.Now().Add(time.Second), 0
				} else if more {
					pause = 0
				}
				// As a rule a chassis that was approved: a StreamServer takes it now, too.
				if refused && out.said == "" {
					select {
					case approved <- struct{}{}:
					default:
					}
				}
			}
		}
		select {
		case cn := <-conns:
			out.rewind()
			cn.run(ctx, out)
			alone = time.Now()
		case <-out.r.Wake():
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// always can be received from.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// sessionBatch is the most bytes of frames that go over the session at once, so that
// what else it carries is not held up.
const sessionBatch = 64 << 10

// overSession delivers a batch over the session. More says that there is more.
func (c *Client) overSession(ctx context.Context, t *Target, out *outgoing) (more bool, err error) {
	out.rewind()
	var frames []byte
	last := mark{}
	cost := 0
	for len(frames) < sessionBatch {
		b, m, ok := out.append(frames, t, false)
		if !ok {
			break
		}
		cost += 1 + (len(b)-len(frames))/rateUnit
		frames, last = b, m
	}
	if len(frames) == 0 {
		return false, nil
	}
	if err := c.limit.WaitN(ctx, min(cost, c.limit.Burst())); err != nil {
		return false, err
	}
	if err := c.opt.Session(ctx, frames); err != nil {
		if text := err.Error(); !errors.Is(err, ErrNoSession) && ctx.Err() == nil && text != out.said {
			c.opt.Log.Warn("records are not taken over the session, and are kept", "err", err)
			out.said = text
		}
		return false, err
	}
	out.said = ""
	c.spool.Ack(last.seq)
	return true, nil
}

// connect gives connections to conns, one at a time, until ctx ends. It waits between
// attempts, and while one is in use; what approved says ends a wait.
func (c *Client) connect(ctx context.Context, t *Target, conns chan<- *conn, approved <-chan struct{}) {
	if len(t.Addresses) == 0 {
		<-ctx.Done()
		return
	}
	lost := 0 // rounds without success
	said := ""
	for i := 0; ctx.Err() == nil; i++ {
		address := t.Addresses[i%len(t.Addresses)]
		cn, err := c.open(ctx, t, address)
		if err == nil {
			select {
			case conns <- cn:
				<-cn.ended
				err = cn.err
			case <-ctx.Done():
				cn.nc.Close()
				return
			}
			said, lost = "", 0
			i = -1 // the first address is the preferred one
		}
		if ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != said {
			c.opt.Log.Warn("records do not reach the StreamServer, and are kept", "address", address, "err", err)
			said = text
		}
		switch {
		case cn != nil:
		case errors.Is(err, errDenied):
			lost = max(lost+1, denied)
		case (i+1)%len(t.Addresses) != 0:
			continue // the next one may be well
		default:
			lost++
		}
		select {
		case <-ctx.Done():
		case <-approved:
			lost = 0
		case <-time.After(c.backoff(lost)):
		}
	}
}

// backoff returns how long to wait after so many failed rounds: a random time within
// an interval that doubles from twice the minimum.
func (c *Client) backoff(failures int) time.Duration {
	top := c.timers.backoffMax
	if failures < 20 {
		top = min(top, 2*c.timers.backoffMin<<max(failures-1, 0))
	}
	return rand.N(top + 1)
}

// open connects to a StreamServer and is let in by it.
func (c *Client) open(ctx context.Context, t *Target, address string) (cn *conn, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.opt.Log.Error("connecting to the StreamServer panicked", "panic", p, "stack", string(debug.Stack()))
			cn, err = nil, fmt.Errorf("connecting to %s panicked: %v", address, p)
		}
	}()
	dialing, cancel := context.WithTimeout(ctx, c.timers.connect)
	defer cancel()
	raw, err := c.dial(dialing, address)
	if err != nil {
		return nil, err // names the address
	}
	cn = newConn(c, t, raw, address)
	if t.TLS != nil {
		tc := tls.Client(cn.raw, t.TLS)
		if err := tc.HandshakeContext(dialing); err != nil {
			raw.Close()
			return nil, fmt.Errorf("TLS with %s: %w", address, err)
		}
		cn.secure(tc)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	err = cn.authenticate()
	stop()
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("StreamServer %s: %w", address, err)
	}
	return cn, nil
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return d.DialContext(ctx, "tcp", address)
}

// control applies f to the socket of nc, if it has one.
func control(nc net.Conn, f func(fd int) error) error {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	sc, err := tc.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := sc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// giveUpAfter has the kernel end a connection whose peer has not acknowledged data
// for so long: a cable that was pulled says nothing.
func giveUpAfter(nc net.Conn, d time.Duration) error {
	return control(nc, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// unacknowledged returns how many of the bytes written to nc the peer's kernel has
// not acknowledged.
func unacknowledged(nc net.Conn) (n int, err error) {
	err = control(nc, func(fd int) error {
		var err error
		n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	return n, err
}
