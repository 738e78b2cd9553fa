package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	clientLife  = 24 * time.Hour
	clientRenew = 12 * time.Hour
	// clientGrace is how long an expired certificate is good for. The key is in the
	// memory of one boot and the approval is asked at every handshake, so what the
	// expiry adds is little, and a control plane that was away for a weekend must not
	// find its chassis locked out.
	clientGrace = 30 * 24 * time.Hour

	maxRequest = 4 << 10 // bytes of a certificate request; one for P-256 has 200

	// Of two ticket keys the newer one is used, the older one still taken.
	ticketPeriod = 12 * time.Hour
)

// IssueClient signs a client certificate for the key of a PKCS #10 request. It
// names the chassis as its common name and the boot as its organizational unit;
// whatever names are in the request are ignored. Renew is after how long the agent
// should ask for the next one.
func (a *Authority) IssueClient(csr []byte, chassis, boot string) (der []byte, renew time.Duration, err error) {
	if len(csr) > maxRequest {
		return nil, 0, fmt.Errorf("certificate request has %d bytes; at most %d", len(csr), maxRequest)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, 0, fmt.Errorf("certificate request: %w", err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, 0, errors.New("certificate request: want an ECDSA key on P-256")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, 0, fmt.Errorf("certificate request: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, 0, err
	}
	now := a.now()
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: chassis, OrganizationalUnit: []string{boot}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(clientLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return nil, 0, fmt.Errorf("sign the client certificate: %w", err)
	}
	return der, clientRenew, nil
}

// VerifyClient returns the chassis and the boot that a client certificate of this
// authority names. Whether the chassis is still welcome is for the caller to ask.
func (a *Authority) VerifyClient(cert *x509.Certificate) (chassis, boot string, err error) {
	if err := a.signed(cert); err != nil {
		return "", "", err
	}
	return a.VerifyResumed(cert)
}

// vouched in a session ticket says that the client certificate in it, if there is
// one, was this authority's when the session began.
var vouched = []byte("teeth: client certificate verified")

// signed verifies that the authority signed a client certificate, at the time it
// names or a while after.
func (a *Authority) signed(cert *x509.Certificate) error {
	at := a.now()
	if at.After(cert.NotAfter) && at.Before(cert.NotAfter.Add(clientGrace)) {
		at = cert.NotAfter
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}

// VerifyResumed is VerifyClient for a session that was resumed with AgentConfig,
// whose ticket vouches for the signature: only the time has passed since.
func (a *Authority) VerifyResumed(cert *x509.Certificate) (chassis, boot string, err error) {
	if now := a.now(); now.After(cert.NotAfter.Add(clientGrace)) || now.Before(cert.NotBefore) {
		return "", "", errors.New("client certificate: it has expired, or is not yet valid")
	}
	if cert.Subject.CommonName == "" || len(cert.Subject.OrganizationalUnit) != 1 {
		return "", "", errors.New("client certificate: it names no chassis and boot")
	}
	return cert.Subject.CommonName, cert.Subject.OrganizationalUnit[0], nil
}

// AgentConfig is ServerConfig for agents: it asks for a client certificate, which
// TLS proves the possession of and VerifyClient checks, and lets them resume
// sessions. It keeps changing the keys of session tickets until ctx ends.
//
// Ticket keys are derived from secret and the time, so that every server of an
// estate, which all have the same secret, resumes what another one began. They do not
// come from the authority's key, which a quantum computer could find out one day:
// agents resume with a plain elliptic curve, and what keeps a recorded session secret
// then is that it began with a key exchange that is more than that.
func (a *Authority) AgentConfig(ctx context.Context, secret string) *tls.Config {
	c := a.ServerConfig()
	c.ClientAuth = tls.RequestClientCert
	c.WrapSession = func(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		if cs.DidResume || len(cs.PeerCertificates) == 0 || a.signed(cs.PeerCertificates[0]) == nil {
			s.Extra = append(s.Extra, vouched)
		}
		return c.EncryptTicket(cs, s)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		s, err := c.DecryptTicket(ticket, cs)
		if err != nil || s == nil || !slices.ContainsFunc(s.Extra, func(b []byte) bool { return bytes.Equal(b, vouched) }) {
			return nil, err // a full handshake
		}
		return s, nil
	}
	set := func() time.Duration {
		now := a.now()
		period := now.Unix() / int64(ticketPeriod.Seconds())
		c.SetSessionTicketKeys([][32]byte{ticketKey(secret, period), ticketKey(secret, period-1), ticketKey(secret, period+1)})
		return time.Unix((period+1)*int64(ticketPeriod.Seconds()), 0).Sub(now)
	}
	next := set()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(max(next, time.Second), time.Hour)): // the clock may be set
				next = set()
			}
		}
	}()
	return c
}

func ticketKey(secret string, period int64) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, []byte(secret), nil, fmt.Sprintf("teeth session tickets %d", period), len(key))
	if err != nil { // not with 32 bytes
		panic(err)
	}
	copy(key[:], b)
	return key
}
