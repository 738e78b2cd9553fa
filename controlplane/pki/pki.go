// Package pki makes the control plane's certificate authority and the secrets
// that agents and operators prove themselves with, and keeps them in the data
// directory.
//
// Peers do not trust the authority through a list of roots: they pin it by the
// SHA-256 of its certificate, which the server sends along with its own. Every
// server certificate names teeth.ServerName, so that a pinned peer can verify it
// under whatever address it reaches the server.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	leafLife      = 90 * 24 * time.Hour
	renewBefore   = 30 * 24 * time.Hour
	// backdate lets a peer whose clock is slow accept a certificate made now.
	backdate = 24 * time.Hour
)

// Authority signs the server's certificates. It is safe for concurrent use.
type Authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	names []string
	now   func() time.Time

	mu   sync.Mutex
	leaf *tls.Certificate
}

// Open returns the authority kept in dir, which is made on first use (ca.pem,
// mode 0600, holds its certificate and key). Its server certificates are valid
// for teeth.ServerName and the host names and IP addresses given.
func Open(dir string, names []string) (*Authority, error) {
	path := filepath.Join(dir, "ca.pem")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = newAuthority(time.Now()); err == nil {
			err = WriteFile(path, b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a := &Authority{names: names, now: time.Now}
	if err := a.parse(b); err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", path, err)
	}
	return a, nil
}

func newAuthority(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Teeth control plane CA " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return out.Bytes(), nil
}

// serialNumber is 127 random bits with the highest set (RFC 5280, 4.1.2.2).
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil
}

func (a *Authority) parse(b []byte) error {
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("its key is not an ECDSA key")
	}
	a.cert, a.key = pair.Leaf, key
	if !a.cert.IsCA {
		return errors.New("its certificate is not one of an authority")
	}
	return nil
}

// Pin returns the SHA-256 of the authority's certificate (DER), hexadecimal.
func (a *Authority) Pin() string {
	d := sha256.Sum256(a.cert.Raw)
	return hex.EncodeToString(d[:])
}

// ServerConfig returns a TLS 1.2+ configuration whose certificate is renewed
// before it expires, while the server runs.
func (a *Authority) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.certificate() },
	}
}

func (a *Authority) certificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	// A clock that was ahead and has been set back leaves one that nobody accepts yet.
	if a.leaf != nil && now.After(a.leaf.Leaf.NotBefore) && now.Before(a.leaf.Leaf.NotAfter.Add(-renewBefore)) {
		return a.leaf, nil
	}
	leaf, err := a.issue(now)
	if err != nil {
		return nil, fmt.Errorf("issue the server's certificate: %w", err)
	}
	a.leaf = leaf
	return leaf, nil
}

func (a *Authority) issue(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: teeth.ServerName},
		DNSNames:              []string{teeth.ServerName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if n != "" && n != teeth.ServerName {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// ClientConfig returns a TLS configuration that trusts the server only if the
// chain it sends holds the authority's certificate with this pin, and that
// authority signed the server's certificate for teeth.ServerName.
func ClientConfig(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(strings.TrimSpace(pin))
	if err != nil || len(want) != sha256.Size {
		return nil, errors.New("CA pin: want 64 hexadecimal digits, the SHA-256 of the CA certificate")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: teeth.ServerName,
		// The standard verification wants a root it has beforehand; this one
		// finds it in the chain by its digest, then verifies as usual.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, cert := range cs.PeerCertificates[1:] {
				if d := sha256.Sum256(cert.Raw); subtle.ConstantTimeCompare(d[:], want) == 1 {
					if cs.DidResume { // by a secret that only a server has whose signature was verified
						return nil
					}
					roots := x509.NewCertPool()
					roots.AddCert(cert)
					_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
						Roots: roots, DNSName: teeth.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
					})
					return err
				}
			}
			return fmt.Errorf("the server's certificate is not from the CA with the pin %s", pin)
		},
	}, nil
}

// Secret returns the random secret kept in the file name in dir (mode 0600),
// which is made on first use: 43 characters that need no quoting anywhere.
func Secret(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret := NewSecret()
		return secret, WriteFile(path, []byte(secret+"\n"))
	}
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(b))
	if len(secret) < 16 || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'$`\\{}&|;", r) }) {
		return "", fmt.Errorf("%s: want at least 16 printable ASCII characters without spaces, quotes or shell signs; remove the file to have one made", path)
	}
	return secret, nil
}

// NewSecret returns 256 random bits as letters, digits, '-' and '_'.
func NewSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Equal compares two secrets in a time that tells nothing of where they differ.
func Equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// WriteFile replaces the file at path by one of mode 0600 that holds b. After a
// crash there is either the old file or the new one.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
