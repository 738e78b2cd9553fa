package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
	"time"
)

func request(t testing.TB, key any) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "somebody-else"}, DNSNames: []string{"control-plane.teeth.internal"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestClientCertificate(t *testing.T) {
	a, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	der, renew, err := a.IssueClient(request(t, p256(t)), "chassis-1", "boot-1")
	if err != nil || renew <= 0 || renew >= clientLife {
		t.Fatal(renew, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	// What the request asked for beyond the key is not in it.
	if len(cert.DNSNames) != 0 || cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("%+v", cert)
	}
	other, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		a     *Authority
		after time.Duration
		cert  *x509.Certificate
		want  string
	}{
		"now":               {a, 0, cert, ""},
		"after a weekend":   {a, 3 * 24 * time.Hour, cert, ""},
		"after two months":  {a, 60 * 24 * time.Hour, cert, "expired"},
		"before":            {a, -48 * time.Hour, cert, "not yet valid"},
		"another authority": {other, 0, cert, "unknown authority"},
		"the authority's":   {a, 0, a.cert, "names no chassis"},
		"the server's":      {a, 0, leaf(t, a), "incompatible key usage"},
	} {
		verifier := &Authority{cert: c.a.cert, key: c.a.key}
		verifier.now = func() time.Time { return time.Now().Add(c.after) }
		chassis, boot, err := verifier.VerifyClient(c.cert)
		if c.want == "" && (err != nil || chassis != "chassis-1" || boot != "boot-1") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %q %q %v", name, chassis, boot, err)
		}
	}
}

func leaf(t *testing.T, a *Authority) *x509.Certificate {
	t.Helper()
	c, err := a.certificate()
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestBadRequests(t *testing.T) {
	a, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t, p256(t))
	forged[len(forged)-1] ^= 1
	for name, csr := range map[string][]byte{
		"empty": nil, "text": []byte("csr"), "huge": make([]byte, maxRequest+1), "P-384": request(t, p384), "Ed25519": request(t, ed), "not signed": forged,
	} {
		if _, _, err := a.IssueClient(csr, "c", "b"); err == nil || !strings.Contains(err.Error(), "certificate request") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIssueClient(f *testing.F) {
	a, err := Open(f.TempDir(), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request(f, p256(f)))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, csr []byte) {
		der, _, err := a.IssueClient(csr, "chassis", "boot")
		if err != nil {
			return
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if chassis, boot, err := a.VerifyClient(cert); err != nil || chassis != "chassis" || boot != "boot" {
			t.Fatal(chassis, boot, err)
		}
	})
}

// A session begun with one server of an estate is resumed by another, with the
// client certificate that it began with.
func TestResumption(t *testing.T) {
	dir := t.TempDir()
	key := p256(t)
	var der []byte
	conf := func(pin string) *tls.Config {
		c, err := ClientConfig(pin)
		if err != nil {
			t.Fatal(err)
		}
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
		return c
	}
	var client *tls.Config
	for i := range 2 {
		a, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if der == nil {
			if der, _, err = a.IssueClient(request(t, key), "chassis-1", "boot-1"); err != nil {
				t.Fatal(err)
			}
			client = conf(a.Pin())
		}
		resumed, chassis := agentHandshake(t, a, client)
		if resumed != (i == 1) || chassis != "chassis-1" {
			t.Errorf("connection %d: resumed %v, chassis %q", i, resumed, chassis)
		}
	}
	period := time.Now().Unix() / int64(ticketPeriod.Seconds())
	if ticketKey("secret", period) == ticketKey("secret", period-1) || ticketKey("secret", period) == ticketKey("other", period) {
		t.Error("the ticket key never changes, or is the same for all")
	}
}

func agentHandshake(t *testing.T, a *Authority, client *tls.Config) (resumed bool, chassis string) {
	t.Helper()
	resumed, certificates := sessionWith(t, a, client)
	if len(certificates) > 0 {
		verify := a.VerifyClient
		if resumed {
			verify = a.VerifyResumed
		}
		var err error
		if chassis, _, err = verify(certificates[0]); err != nil {
			t.Error(err)
		}
	}
	return resumed, chassis
}

func sessionWith(t *testing.T, a *Authority, client *tls.Config) (resumed bool, certificates []*x509.Certificate) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conf := a.AgentConfig(ctx, "secret")
	state := make(chan tls.ConnectionState, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			close(state)
			return
		}
		c := tls.Server(nc, conf)
		defer c.Close()
		c.Handshake()
		state <- c.ConnectionState()
		c.Write([]byte("x"))
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Read(make([]byte, 1)) // the ticket comes with it
	s := <-state
	return s.DidResume, s.PeerCertificates
}

// A ticket of a session whose certificate is another authority's resumes nothing: the
// signature is not looked at again.
func TestForeignCertificateIsNotResumed(t *testing.T) {
	a, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	key := p256(t)
	for signer, want := range map[*Authority]bool{a: true, other: false} {
		der, _, err := signer.IssueClient(request(t, key), "chassis-1", "boot-1")
		if err != nil {
			t.Fatal(err)
		}
		client, err := ClientConfig(a.Pin())
		if err != nil {
			t.Fatal(err)
		}
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		client.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
		for i := range 3 {
			resumed, _ := sessionWith(t, a, client)
			if resumed != (want && i > 0) {
				t.Errorf("connection %d with a certificate of ours (%v): resumed %v", i, want, resumed)
			}
		}
	}
}
