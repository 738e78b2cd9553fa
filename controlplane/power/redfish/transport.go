package redfish

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
)

const (
	maxBody     = 4 << 20
	maxRequests = 4096     // of one session
	maxTotal    = 64 << 20 // bytes of all answers of a session
	// BMCs take long for some resources; the session's context bounds the whole.
	headerTimeout = time.Minute
)

// errElsewhere refuses to follow the BMC to another host.
var errElsewhere = errors.New("it refers to another host")

// transport keeps a session at the BMC it is with. The library follows the links
// that a BMC gives and sends the session's token along, so a BMC that has been
// taken over could have it sent anywhere, or have us read without end.
type transport struct {
	host  string
	inner http.RoundTripper
	left  atomic.Int64 // requests
	bytes atomic.Int64
}

// RoundTrip sends a request to the BMC and reads its answer, whole and bounded.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != t.host || r.URL.User != nil {
		return nil, fmt.Errorf("%w: %.100s", errElsewhere, r.URL.Redacted())
	}
	// Session 0 of a BMC that ends it may be told so always.
	if t.left.Add(-1) < 0 && r.Method != http.MethodDelete {
		return nil, fmt.Errorf("it has more than %d resources to read", maxRequests)
	}
	resp, err := t.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxBody {
		return nil, fmt.Errorf("its answer to %s is larger than %d bytes", r.URL.Path, maxBody)
	}
	if t.bytes.Add(int64(len(b))) > maxTotal {
		return nil, fmt.Errorf("it has sent more than %d bytes", maxTotal)
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, nil
}

// newHTTPClient returns a client for this BMC alone.
func newHTTPClient(t power.Target, host string) (*http.Client, *http.Transport, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case t.CertSHA256 != "":
		want, err := Fingerprint(t.CertSHA256)
		if err != nil {
			return nil, nil, fmt.Errorf("BMC %s: %w", t.Address, err)
		}
		c.InsecureSkipVerify = true // the fingerprint says more
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if got := sha256.Sum256(s.PeerCertificates[0].Raw); !bytes.Equal(got[:], want) {
				return &pinError{got: hex.EncodeToString(got[:])}
			}
			return nil
		}
	case t.Insecure:
		c.InsecureSkipVerify = true
	}
	inner := &http.Transport{
		TLSClientConfig:        c,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    20 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxConnsPerHost:        1,
		IdleConnTimeout:        time.Minute,
	}
	tr := &transport{host: host, inner: inner}
	tr.left.Store(maxRequests)
	return &http.Client{
		Transport: tr,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if r.URL.Host != host {
				return fmt.Errorf("%w: %.100s", errElsewhere, r.URL.Redacted())
			}
			return nil
		},
	}, inner, nil
}

// pinError says that the BMC's certificate is another one than was noted.
type pinError struct{ got string }

func (e *pinError) Error() string {
	return "its TLS certificate has the SHA-256 " + e.got + ", not the one noted: if the BMC has a new certificate, note that; else somebody answers in its place"
}

// Fingerprint reads a SHA-256 in hexadecimal, with or without colons.
func Fingerprint(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("certificate fingerprint %.100q: want a SHA-256, 64 hexadecimal digits: %w", s, power.ErrInvalid)
	}
	return b, nil
}

// explainTLS is what an operator can do about a certificate that is not trusted.
func explainTLS(err error) (string, bool) {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var pin *pinError
	if errors.As(err, &pin) {
		return pin.Error(), true
	}
	for _, target := range []any{&unknown, &name, &invalid} {
		if errors.As(err, target) {
			return err.Error() + ": note the SHA-256 of its certificate, or allow any certificate with --insecure", true
		}
	}
	return "", false
}

// endpoint makes the URL of an address.
func endpoint(address string) (*url.URL, error) {
	host := address
	if strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "[") {
		host = "[" + address + "]"
	}
	u, err := url.Parse("https://" + host)
	if err != nil || u.Host != host || u.Hostname() == "" {
		return nil, fmt.Errorf("BMC address %.80q: write HOST or HOST:PORT: %w", address, power.ErrInvalid)
	}
	return u, nil
}
