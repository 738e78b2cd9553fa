package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/lab/netns/netnstest"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// proxy is a network between agent and server that can be cut.
type proxy struct {
	t  *testing.T
	ln net.Listener
	to string

	mu    sync.Mutex
	pairs [][2]*net.TCPConn
}

func newProxy(t *testing.T, to string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, ln: ln, to: to}
	t.Cleanup(func() { ln.Close(); p.cut(true) })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			pair := [2]*net.TCPConn{in.(*net.TCPConn), out.(*net.TCPConn)}
			p.mu.Lock()
			p.pairs = append(p.pairs, pair)
			p.mu.Unlock()
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return p
}

// cut closes all connections, or resets them.
func (p *proxy) cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pair := range p.pairs {
		for _, c := range pair {
			if reset {
				c.SetLinger(0)
			}
			c.Close()
		}
	}
	p.pairs = nil
}

// TestCut closes and resets connections at any byte. Our server has each line once.
// With an original what was in the proxy is lost, as its machine would have had it;
// but no id comes twice.
func TestCut(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		between := newProxy(t, p.address)
		c := client(t, Options{})
		aim(t, c, target(between.ln.Addr().String()))
		run(t, c)
		const n = 6000
		for i := range n {
			c.Log("s", line(i))
			if i%10 == 0 {
				time.Sleep(200 * time.Microsecond)
			}
			if i%300 == 299 {
				between.cut(i%600 == 299)
			}
		}
		flush(t, c)
		if !p.original {
			once(t, p.lines("s"), n)
		}
	})
}

// TestBlackHole takes the cable out: nobody says that a connection has ended. Lines
// are lost to nobody, not to an original either, whose machine has not acknowledged
// them.
func TestBlackHole(t *testing.T) {
	t.Parallel() // it waits, most of the time, in a network of its own
	for _, original := range []bool{false, true} {
		name := map[bool]string{false: "ours", true: "original"}[original]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nw := netnstest.New(t, "192.0.2.1/24")
			agent := nw.Client(nw.Net, "agent")
			nw.Run(nil, "ip", "-n", agent.Name, "addr", "add", "192.0.2.2/24", "dev", "eth0")
			p := newPeer(t, original, func(p *peer) {
				p.listen = func(at string) (ln net.Listener, err error) {
					if strings.HasPrefix(at, "127.") {
						at = "192.0.2.1:6766"
					}
					err = netns.In(nw.Name, func() error {
						ln, err = net.Listen("tcp", at)
						return err
					})
					return ln, err
				}
			})
			c := client(t, Options{})
			c.timers.user, c.timers.connect = 300*time.Millisecond, 200*time.Millisecond
			c.dial = func(ctx context.Context, address string) (nc net.Conn, err error) {
				err = netns.In(agent.Name, func() error {
					nc, err = dialTCP(ctx, address)
					return err
				})
				return nc, err
			}
			aim(t, c, target(p.address))
			run(t, c)
			sent := 0
			say := func(n int) {
				for range n {
					c.Log("s", line(sent))
					sent++
					if sent%10 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			}
			say(500)
			for range 3 {
				had := p.count()
				eventually(t, "the network carries records", func() bool { say(1); return p.count() > had })
				nw.Run(nil, "ip", "-n", nw.Name, "link", "set", "agent", "nomaster")
				say(500)
				eventually(t, "the connection is given up", func() bool { _, ok := c.Connected(); return !ok })
				say(100)
				nw.Run(nil, "ip", "-n", nw.Name, "link", "set", "agent", "master", netns.Bridge)
				say(100)
			}
			flush(t, c)
			eventually(t, "the last line", func() bool { return slices.Contains(p.lines("s"), line(sent-1)) })
			lines := p.lines("s")
			if original { // may have some twice, under other ids
				t.Logf("%d lines came of %d", len(lines), sent)
				slices.Sort(lines)
				lines = slices.Compact(lines)
			}
			once(t, lines, sent)
		})
	}
}

// authority makes a CA, its pin, and a configuration of a server with a certificate
// of it.
func authority(t *testing.T) (pin string, conf *tls.Config) {
	t.Helper()
	make := func(of *x509.Certificate, by *x509.Certificate, byKey *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by, byKey = of, key
		}
		der, err := x509.CreateCertificate(rand.Reader, of, by, key.Public(), byKey)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, caKey := make(ca, nil, nil)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: []string{teeth.ServerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, key := make(leaf, ca, caKey)
	sum := sha256.Sum256(caDER)
	return hex.EncodeToString(sum[:]), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, caDER}, PrivateKey: key}}}
}

func TestTLS(t *testing.T) {
	pin, conf := authority(t)
	other, _ := authority(t)
	for _, original := range []bool{false, true} { // which would stand behind a TLS proxy
		p := newPeer(t, original, func(p *peer) { p.tls = conf })
		c := client(t, Options{})
		to := target(p.address)
		var err error
		if to.TLS, err = session.TLSConfig(other); err != nil {
			t.Fatal(err)
		}
		if _, err := c.open(t.Context(), &to, p.address); err == nil || !strings.Contains(err.Error(), "pinned CA") {
			t.Errorf("another CA: %v", err)
		}
		if to.TLS, err = session.TLSConfig(pin); err != nil {
			t.Fatal(err)
		}
		aim(t, c, to)
		run(t, c)
		const n = 3000
		for i := range n {
			c.Log("s", line(i))
		}
		flush(t, c)
		p.has(n)
		once(t, p.lines("s"), n)
		if peer, ok := c.Connected(); !ok || !peer.Trusted {
			t.Errorf("%+v, %v", peer, ok)
		}
	}
	// In the clear where TLS is spoken, and the other way round.
	p := newPeer(t, false, func(p *peer) { p.tls = conf })
	c := client(t, Options{})
	c.timers.answer = 100 * time.Millisecond
	to := target(p.address)
	if _, err := c.open(t.Context(), &to, p.address); err == nil {
		t.Error("TLS was not missed")
	}
	plain := newPeer(t, true)
	c.timers.connect = 100 * time.Millisecond
	var err error
	if to.TLS, err = session.TLSConfig(pin); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(t.Context(), &to, plain.address); err == nil {
		t.Error("TLS with who speaks none")
	}
}
