package session

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// Between two requests for a certificate that were refused, as they are until an
// operator has approved the chassis.
const (
	askMin = 5 * time.Second
	askMax = 60 * time.Second
)

// Bounds of when a server may want a certificate to be renewed.
const (
	renewMin = time.Minute
	renewMax = 30 * 24 * time.Hour
)

// credentials are what the agent proves itself with. Its key is made in memory,
// and is gone with this boot.
type credentials struct {
	pin [sha256.Size]byte

	mu    sync.Mutex
	key   *ecdsa.PrivateKey
	plain *tls.Config // without certificate: for the token
	own   *tls.Config // with it; nil until there is one
	token bool        // the certificate was refused: try the token once
	ask   time.Time   // when to ask for a certificate
	wait  time.Duration
}

func newCredentials(pin [sha256.Size]byte) *credentials {
	return &credentials{pin: pin, plain: tlsConfig(pin)}
}

// config is for the next connection; certified says whether it has a certificate,
// so that no token is to be shown.
func (c *credentials) config() (conf *tls.Config, certified bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil || c.token {
		return c.plain, false
	}
	return c.own, true
}

// introduced tells how a handshake with or without the certificate went. One that
// is refused is tried the other way next time: the server may have forgotten the
// chassis, and so its certificate, or the token may be used up.
func (c *credentials) introduced(certified, accepted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = certified != accepted
	if accepted && !certified {
		c.own, c.token, c.ask = nil, false, time.Time{}
	}
}

// due is how long to wait before the next request.
func (c *credentials) due() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(time.Until(c.ask), 0)
}

// request returns the params of the certificate command.
func (c *credentials) request() (json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		c.key = key
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, c.key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	c.ask = time.Now().Add(askMax) // unless there is an answer
	return json.Marshal(teeth.CertificateParams{CSR: csr})
}

// refused puts the next request off, by twice as long each time.
func (c *credentials) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = min(max(2*c.wait, askMin), askMax)
	c.ask = time.Now().Add(c.wait/2 + mathrand.N(c.wait/2+1))
}

// issued takes the answer. The connection that it came on goes on as it is.
func (c *credentials) issued(result json.RawMessage) error {
	var r teeth.CertificateResult
	if err := json.Unmarshal(result, &r); err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); c.key == nil || !ok || !pub.Equal(&c.key.PublicKey) {
		return errors.New("it is for another key")
	}
	// A configuration of its own: a session resumed from the cache of the other one
	// would come without the certificate.
	own := tlsConfig(c.pin)
	own.Certificates = []tls.Certificate{{Certificate: [][]byte{bytes.Clone(r.Certificate)}, PrivateKey: c.key, Leaf: leaf}}
	c.own, c.token, c.wait = own, false, 0
	renew := min(max(time.Duration(r.Renew*float64(time.Second)), renewMin), renewMax)
	c.ask = time.Now().Add(renew - mathrand.N(renew/10))
	return nil
}
