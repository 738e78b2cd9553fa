package session

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// sign answers a request for a certificate; key, if not nil, is another one.
func (a authority) sign(t *testing.T, csr []byte, key *ecdsa.PrivateKey) teeth.CertificateResult {
	t.Helper()
	req, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		t.Fatal(err)
	}
	pub := req.PublicKey.(*ecdsa.PublicKey)
	if key != nil {
		pub = &key.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "chassis-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return teeth.CertificateResult{Certificate: der, Renew: 3600}
}

func (p *peer) answer(to teeth.Message, result any) {
	p.t.Helper()
	m, err := teeth.NewResult(to.ID, result)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := teeth.NewWriter(p.nc).WriteMessage(m); err != nil {
		p.t.Fatal(err)
	}
}

func handshakeOf(t *testing.T, m teeth.Message) teeth.Handshake {
	t.Helper()
	var h teeth.Handshake
	if err := json.Unmarshal(m.Params, &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// The agent shows its token until it has a certificate, then that; what is
// refused, it tries the other way.
func TestCertificate(t *testing.T) {
	ca := newAuthority(t)
	addr, conns := serve(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil)}, ClientAuth: tls.RequestClientCert})
	cfg := testConfig()
	cfg.Endpoints, cfg.CASHA256, cfg.Insecure = []string{addr}, ca.pin(), false
	plain := cfg.Handshake
	cfg.Handshake = func() teeth.Handshake {
		h := plain()
		h.Token = "token"
		return h
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// next makes a connection and returns the handshake, with or without certificate.
	next := func(certified bool) (*peer, teeth.Message, func()) {
		t.Helper()
		ended := make(chan error)
		go func() {
			_, err := s.connect(t.Context(), addr)
			ended <- err
		}()
		var nc net.Conn
		select {
		case nc = <-conns:
		case <-time.After(10 * time.Second):
			t.Fatal("no connection")
		}
		p := newPeer(t, nc)
		m := p.expect(teeth.MethodHandshake)
		n, token := len(nc.(*tls.Conn).ConnectionState().PeerCertificates), handshakeOf(t, m).Token
		if (n == 1) != certified || (token == "") != certified {
			t.Fatalf("%d certificates, token %q, want certified %v", n, token, certified)
		}
		return p, m, func() { nc.Close(); <-ended }
	}
	welcome := teeth.HandshakeResult{Chassis: "chassis-1", Certificates: true}

	p, m, end := next(false)
	p.answer(m, teeth.HandshakeResult{}) // a server that issues none is not asked
	if m, ok := <-p.in; !ok || m.Method != teeth.MethodPing {
		t.Fatalf("%+v", m)
	}
	select {
	case m := <-p.in:
		t.Fatalf("asked for nothing and got %+v", m)
	case <-time.After(100 * time.Millisecond):
	}
	end()

	p, m, end = next(false)
	p.answer(m, welcome)
	ask := p.expect(teeth.MethodCertificate)
	teeth.NewWriter(p.nc).WriteMessage(teeth.NewError(ask.ID, &teeth.MethodError{Msg: "not approved yet"}))
	waitFor(t, func() bool { d := s.creds.due(); return d > askMin/4 && d <= askMin })
	end()

	// On the next connection it may ask at once.
	p, m, end = next(false)
	p.answer(m, welcome)
	var params teeth.CertificateParams
	ask = p.expect(teeth.MethodCertificate)
	if err := json.Unmarshal(ask.Params, &params); err != nil {
		t.Fatal(err)
	}
	p.answer(ask, ca.sign(t, params.CSR, newKey(t))) // for a key it has not
	waitFor(t, func() bool { return s.creds.due() > time.Second })
	if _, certified := s.creds.config(); certified {
		t.Fatal("a certificate for another key was taken")
	}
	end()

	p, m, end = next(false)
	p.answer(m, welcome)
	ask = p.expect(teeth.MethodCertificate)
	if err := json.Unmarshal(ask.Params, &params); err != nil {
		t.Fatal(err)
	}
	p.answer(ask, ca.sign(t, params.CSR, nil))
	waitFor(t, func() bool { _, certified := s.creds.config(); return certified })
	if d := s.creds.due(); d < 50*time.Minute || d > time.Hour {
		t.Errorf("the next one in %v", d)
	}
	end()

	p, m, end = next(true)
	p.answer(m, welcome)
	end()
	for _, certified := range []bool{true, false, true} { // refused each time
		p, m, end = next(certified)
		teeth.NewWriter(p.nc).WriteMessage(teeth.NewError(m.ID, &teeth.MethodError{Msg: "refused"}))
		waitFor(t, func() bool { _, c := s.creds.config(); return c != certified })
		end()
	}
	// Let in by its token, the certificate is worth nothing: it asks for a new one.
	p, m, end = next(false)
	p.answer(m, welcome)
	p.expect(teeth.MethodCertificate)
	end()
	if _, certified := s.creds.config(); certified {
		t.Error("the certificate that was refused is kept")
	}
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s")
		}
	}
}

func FuzzCertificateResult(f *testing.F) {
	f.Add(`{"certificate": "MIIBizCCATGgAwIBAgIQ", "renew": 43200.0}`)
	f.Add(`{"certificate": null, "renew": -1e300}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		c := newCredentials([32]byte{})
		if _, err := c.request(); err != nil {
			t.Fatal(err)
		}
		if err := c.issued(json.RawMessage(text)); err == nil {
			t.Errorf("%s was taken for a certificate of a key just made", strings.ToValidUTF8(text, "?"))
		}
	})
}
