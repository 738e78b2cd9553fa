package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
)

// authority issues certificates into a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.write("ca", &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	return a
}

func (a *authority) issue(name string) {
	a.write(name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
}

func (a *authority) write(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// TestTLS has a broker that asks for certificates, and peers that lack one or
// trust another authority.
func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ours.issue("broker")
	ours.issue("client")
	broker := rabbitmqtest.StartTLS(t, &rabbitmqtest.TLS{CA: ours.file("ca.pem"), Cert: ours.file("broker.pem"), Key: ours.file("broker.key")})
	good := bus.Config{URLs: []string{broker.TLSURL()}, CAFile: ours.file("ca.pem"), CertFile: ours.file("client.pem"), KeyFile: ours.file("client.key")}
	b := start(t, good)
	got := make(chan bus.Message, 1)
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"x"}, Handle: func(_ context.Context, m bus.Message) *bus.Message {
		got <- m
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	ready(t, b)
	if err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "x", Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing arrives over TLS")
	}
	for name, c := range map[string]struct {
		change func(*bus.Config)
		want   string
	}{
		"unknown authority":   {func(c *bus.Config) { c.CAFile = theirs.file("ca.pem") }, "unknown authority"},
		"no certificate":      {func(c *bus.Config) { c.CertFile, c.KeyFile = "", "" }, "certificate required"},
		"TLS to a plain port": {func(c *bus.Config) { c.URLs = []string{"amqps://guest:guest@" + broker.Address() + "/"} }, "tls"},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			c.change(&config)
			b := start(t, config)
			for range 1000 {
				if err := b.Err(); strings.Contains(err.Error(), c.want) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("error %v, want %q", b.Err(), c.want)
		})
	}
}
