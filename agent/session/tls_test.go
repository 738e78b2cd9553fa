package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// authority is a CA made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, template, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{issue(t, template, template, &key.PublicKey, key), key}
}

func (a authority) pin() string { return fmt.Sprintf("%x", sha256.Sum256(a.cert.Raw)) }

// leaf issues a server certificate; change may spoil it.
func (a authority) leaf(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "control plane"},
		DNSNames:  []string{teeth.ServerName},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	cert := issue(t, template, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// serve accepts one connection after the other and hands over those whose TLS
// handshake succeeds.
func serve(t *testing.T, cfg *tls.Config) (addr string, conns <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan net.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			if cfg != nil {
				tc := tls.Server(nc, cfg)
				if tc.Handshake() != nil {
					nc.Close()
					continue
				}
				nc = tc
			}
			out <- nc
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for len(out) > 0 {
			(<-out).Close()
		}
	})
	return l.Addr().String(), out
}

// connectTo makes one connection to addr and returns how it ended.
func connectTo(t *testing.T, addr, pin string) (*Session, <-chan error) {
	t.Helper()
	cfg := testConfig()
	cfg.Endpoints, cfg.CASHA256, cfg.Insecure = []string{addr}, pin, pin == ""
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := s.connect(ctx, addr)
		ended <- err
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range ended {
		}
	})
	return s, ended
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good := ca.leaf(t, nil)
	tests := []struct {
		name string
		pin  string
		cert tls.Certificate
		max  uint16
		want string // in the error; empty: it connects
	}{
		{name: "good", pin: ca.pin(), cert: good},
		{name: "TLS 1.2", pin: ca.pin(), cert: good, max: tls.VersionTLS12},
		{name: "TLS 1.1", pin: ca.pin(), cert: good, max: tls.VersionTLS11, want: "protocol version"},
		{name: "another CA", pin: ca.pin(), cert: other.leaf(t, nil), want: "does not come from the pinned CA"},
		{name: "the pinned CA is shown, but another one signed", pin: ca.pin(), want: "unknown authority",
			cert: func() tls.Certificate {
				c := other.leaf(t, nil)
				c.Certificate = [][]byte{c.Certificate[0], ca.cert.Raw}
				return c
			}()},
		{name: "CA not sent", pin: ca.pin(), want: "does not come from the pinned CA",
			cert: tls.Certificate{Certificate: good.Certificate[:1], PrivateKey: good.PrivateKey}},
		{name: "another name", pin: ca.pin(), want: "not control-plane.teeth.internal",
			cert: ca.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })},
		{name: "a client's certificate", pin: ca.pin(), want: "incompatible key usage",
			cert: ca.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })},
		{name: "expired", pin: ca.pin(), want: "expired",
			cert: ca.leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, conns := serve(t, &tls.Config{Certificates: []tls.Certificate{tt.cert}, MinVersion: tls.VersionTLS10, MaxVersion: tt.max})
			s, ended := connectTo(t, addr, tt.pin)
			if tt.want == "" {
				p := newPeer(t, <-conns).welcome()
				defer p.nc.Close()
				p.send(`{"id":1,"version":"v1","method":"ping","params":{}}` + "\n")
				if m, _ := p.next(); string(m.Result) != "{}" || !s.Connected() {
					t.Errorf("got %+v, connected %v", m, s.Connected())
				}
				return
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), addr) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			select {
			case nc := <-conns: // TLS 1.3's server is done before the client has looked
				defer nc.Close()
				if b, err := io.ReadAll(nc); len(b) > 0 {
					t.Errorf("the server got %q, %v", b, err)
				}
			default:
			}
		})
	}
}

// A clock in the past is the chassis' fault; one in the future may be telling
// the truth.
func TestVerifyWithAWrongClock(t *testing.T) {
	ca := newAuthority(t)
	leaf := ca.leaf(t, nil)
	chain := []*x509.Certificate{leaf.Leaf, ca.cert}
	pin := sha256.Sum256(ca.cert.Raw)
	for name, tt := range map[string]struct {
		now  time.Time
		want string
	}{
		"now":         {time.Now(), ""},
		"1970":        {time.Unix(0, 0), ""},
		"an hour ago": {time.Now().Add(-time.Hour), ""},
		"tomorrow":    {time.Now().Add(48 * time.Hour), "expired"},
	} {
		err := verify(chain, pin, teeth.ServerName, tt.now)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The future part of the chain must not be stretched to suit an expired one.
	stranger := ca.leaf(t, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(1, 0), time.Unix(2, 0) })
	if err := verify([]*x509.Certificate{stranger.Leaf, ca.cert}, pin, teeth.ServerName, time.Unix(0, 0)); err == nil {
		t.Error("a certificate that had expired before its CA was made passed")
	}
	if verify(nil, pin, teeth.ServerName, time.Now()) == nil {
		t.Error("no certificate passed")
	}
}

// A reconnect resumes the TLS session; the pin must still be checked.
func TestResumption(t *testing.T) {
	ca := newAuthority(t)
	addr, conns := serve(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil)}})
	cfg := testConfig()
	cfg.Endpoints, cfg.CASHA256, cfg.Insecure = []string{addr}, ca.pin(), false
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		ended := make(chan error)
		go func() {
			_, err := s.connect(t.Context(), addr)
			ended <- err
		}()
		nc := <-conns
		p := newPeer(t, nc).welcome()
		p.send(`{"id":1,"version":"v1","method":"ping","params":{}}` + "\n")
		p.next()
		if got := nc.(*tls.Conn).ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed %v", i, got)
		}
		nc.Close()
		<-ended
	}
	// The same session, but the agent is told to trust another CA.
	s.creds.plain.VerifyConnection = func(cs tls.ConnectionState) error {
		return verify(cs.PeerCertificates, sha256.Sum256(newAuthority(t).cert.Raw), teeth.ServerName, time.Now())
	}
	if _, err := s.connect(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "pinned CA") {
		t.Errorf("resumed without a look at the pin: %v", err)
	}
}

// 600 KiB without a line feed: closed, without a fatal error, and without
// reading on.
func TestLongLineClosesTheConnection(t *testing.T) {
	ca := newAuthority(t)
	for name, pin := range map[string]string{"plain": "", "TLS": ca.pin()} {
		t.Run(name, func(t *testing.T) {
			var cfg *tls.Config
			if pin != "" {
				cfg = &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil)}}
			}
			addr, conns := serve(t, cfg)
			_, ended := connectTo(t, addr, pin)
			p := newPeer(t, <-conns).welcome()
			defer p.nc.Close()
			io.WriteString(p.nc, `{"id":1,"version":"v1","method":"ping","params":{"k":"`+strings.Repeat("x", 600<<10)) // may fail half-way
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "line longer than 524288 bytes") {
				t.Errorf("ended with %v", err)
			}
			p.closed()
		})
	}
}

// The last message must arrive even when the agent has not read all that was
// sent: a plain close would answer that with a reset.
func TestFatalArrivesBeforeTheEnd(t *testing.T) {
	ca := newAuthority(t)
	unknown := `{"id":1,"version":"v1","method":"nonsense","params":{}}` + "\n"
	for _, tt := range []struct{ name, pin, send, fatal string }{
		{"plain", "", "hello\n" + strings.Repeat("more\n", 10000), teeth.FatalDecode},
		{"TLS", ca.pin(), "hello\n" + strings.Repeat("more\n", 10000), teeth.FatalDecode},
		{"found by the handler", "", unknown, teeth.FatalUnknownMethod},
		{"found by the handler, TLS", ca.pin(), unknown, teeth.FatalUnknownMethod},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var cfg *tls.Config
			if tt.pin != "" {
				cfg = &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil)}}
			}
			addr, conns := serve(t, cfg)
			_, ended := connectTo(t, addr, tt.pin)
			p := newPeer(t, <-conns).welcome()
			p.send(tt.send)
			m, ok := p.next()
			if !ok || m.Fatal != tt.fatal {
				t.Errorf("got %+v, %v", m, ok)
			}
			p.closed()
			p.nc.Close()
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "sent fatal error") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, ended := connectTo(t, addr, "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v does not name %s", err, addr)
	}
}

// A connection that ends before TLS has begun, as those do that are too many, leaves
// the session to be resumed by the next.
func TestResumptionAfterARefusal(t *testing.T) {
	a := newAuthority(t)
	addr, conns := serve(t, &tls.Config{Certificates: []tls.Certificate{a.leaf(t, nil)}})
	pin, err := parsePin(a.pin())
	if err != nil {
		t.Fatal(err)
	}
	conf := tlsConfig(pin)
	dial := func() bool {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		nc, err := handshake(t.Context(), raw, conf)
		if err != nil {
			t.Fatal(err)
		}
		peer := <-conns
		go peer.Write([]byte("x"))
		if _, err := nc.Read(make([]byte, 1)); err != nil { // the ticket comes before it
			t.Fatal(err)
		}
		peer.Close()
		return nc.(*tls.Conn).ConnectionState().DidResume
	}
	if dial() {
		t.Fatal("the first session was resumed")
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	go func() {
		for {
			nc, err := busy.Accept()
			if err != nil {
				return
			}
			nc.Close()
		}
	}()
	for range 3 {
		raw, err := net.Dial("tcp", busy.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handshake(t.Context(), raw, conf); err == nil {
			t.Fatal("TLS with a server that closes")
		}
		raw.Close()
	}
	if !dial() {
		t.Error("the session was thrown away")
	}
}
