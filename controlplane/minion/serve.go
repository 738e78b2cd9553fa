package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
)

// keepAlive finds out within a minute that a peer is gone that has nothing to say.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}

// Serve accepts agents on l until ctx ends, then closes l and its connections, after
// what was read of them is kept. With a nil tlsConfig connections are plain TCP, on
// which everybody can read keys and commands. Run must be running.
func (s *Server) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	s.mu.Lock()
	ending := s.ending
	if !ending {
		s.conns.Add(1) // Run ends after the last connection
		defer s.conns.Done()
	}
	s.mu.Unlock()
	if ending {
		l.Close()
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("minion agents' listener %s: %w", l.Addr(), err)
		case err != nil: // out of file descriptors, mostly: the connections there are go on
			s.c.Log.Error("cannot accept a minion agent", "listener", l.Addr().String(), "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		from := quota.Source(nc.RemoteAddr().String())
		if reason := s.admit(from); reason != "" {
			s.meter.refused.WithLabelValues(reason).Inc()
			s.refused(nc.RemoteAddr(), errors.New(reason))
			nc.Close()
			continue
		}
		if tc, ok := nc.(*net.TCPConn); ok {
			tc.SetKeepAliveConfig(keepAlive)
		}
		s.conns.Go(func() {
			defer s.peers.Leave(from)
			s.serve(ctx, nc, from, tlsConfig)
		})
	}
}

// admit takes a connection in, or says why not.
func (s *Server) admit(from netip.Addr) (refusal string) {
	if _, ok := s.rates.Take(from); !ok {
		return "too many connections a second from this address"
	}
	switch s.peers.Enter(from) {
	case quota.Total:
		return "too many connections"
	case quota.PerAddress:
		return "too many connections from this address"
	case quota.Greeting:
		return "too many connections without authentication"
	case quota.GreetingPerAddress:
		return "too many connections without authentication from this address"
	}
	return ""
}
