package session

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// parsePin decodes the hexadecimal SHA-256 digest of a certificate, with or
// without the colons that openssl prints.
func parsePin(s string) (pin [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != len(pin) {
		return pin, fmt.Errorf("CA digest %q is not 64 hexadecimal digits; it is the SHA-256 of the CA certificate, as teeth serve prints it", s)
	}
	return [sha256.Size]byte(b), nil
}

// TLSConfig is for other connections to the control plane: it trusts the CA with
// that digest (as Config's CASHA256), and knows servers by teeth.ServerName.
func TLSConfig(caSHA256 string) (*tls.Config, error) {
	return PinnedTLS(caSHA256, teeth.ServerName)
}

// PinnedTLS is TLSConfig for a server that is not the control plane, and is known by
// another name or IP address. It has to send its CA's certificate, too.
func PinnedTLS(caSHA256, name string) (*tls.Config, error) {
	pin, err := parsePin(caSHA256)
	if err != nil {
		return nil, err
	}
	return pinned(pin, name), nil
}

// tlsConfig trusts the one CA whose certificate has that digest, and nothing
// else: no system roots exist in a ramdisk.
func tlsConfig(pin [sha256.Size]byte) *tls.Config { return pinned(pin, teeth.ServerName) }

func pinned(pin [sha256.Size]byte, name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: name,
		// The standard verification wants a root certificate, and all there is
		// is a digest. verify does the whole of it instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verify(cs.PeerCertificates, pin, name, time.Now())
		},
		// Thousands of agents come back at once when a control plane restarts.
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
}

// handshake makes a connection one of TLS, and resumes a session if there is one.
//
// A session begins with the key exchange that Go prefers, which a quantum computer
// does not break, and what resumes it is derived from that. The elliptic curve adds
// a secret that is of this connection alone; a hybrid would add little, and cost a
// server that thousands of chassis come back to several times as much. P-256 is the
// one that every implementation of TLS 1.3 has (RFC 8446, 9.1).
func handshake(ctx context.Context, raw net.Conn, conf *tls.Config) (net.Conn, error) {
	session, resumes := conf.ClientSessionCache.Get(conf.ServerName)
	if resumes {
		conf = conf.Clone() // with the same cache
		conf.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
	tc := tls.Client(raw, conf)
	err := tc.HandshakeContext(ctx)
	// The library drops a session after any failure. One that was no answer to it, as
	// when the server has too many at once, must not make the next attempt dearer.
	if resumes && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)) {
		conf.ClientSessionCache.Put(conf.ServerName, session)
	}
	return tc, err
}

// verify checks the chain that the server sent, its CA included.
//
// A chassis without a battery for its clock wakes up in the past. When the clock
// is before the certificate was made, it is the clock that is wrong, and the
// chain is checked as of the day it was made. That gives up nothing but the
// expiry, which only a right clock could check anyway: the pinned CA still has
// to have signed.
func verify(chain []*x509.Certificate, pin [sha256.Size]byte, name string, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("the server sent no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		DNSName:       name,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CurrentTime:   now,
	}
	found := false
	for _, c := range chain {
		if sha256.Sum256(c.Raw) == pin {
			found = true
			opts.Roots.AddCert(c)
		} else {
			opts.Intermediates.AddCert(c)
		}
		if c.NotBefore.After(opts.CurrentTime) {
			opts.CurrentTime = c.NotBefore
		}
	}
	if !found {
		return fmt.Errorf("the server's certificate does not come from the pinned CA: none of the %d it sent has SHA-256 %x", len(chain), pin)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("the server's certificate: %w", err)
	}
	return nil
}
