package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// stall is how long a server may send nothing.
const stall = time.Minute

// fetchClient refuses addresses that only this machine can reach, among them
// the metadata services of clouds. It looks at the address that is connected to,
// after name resolution and after redirects.
func fetchClient(allowLoopback bool) *http.Client {
	dialer := &net.Dialer{
		Timeout: 30 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			ip := ap.Addr().Unmap()
			if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() && !allowLoopback {
				return fmt.Errorf("%w: this server does not fetch from %s", ErrInvalid, ip)
			}
			return nil
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSHandshakeTimeout:   30 * time.Second,
			ResponseHeaderTimeout: stall,
			DisableCompression:    true, // the digest is of the file as it is
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch from := via[len(via)-1].URL; {
			case len(via) >= 10:
				return errors.New("more than 10 redirects")
			case checkURL(req.URL) != nil:
				return checkURL(req.URL)
			case from.Scheme == "https" && req.URL.Scheme != "https":
				return fmt.Errorf("%w: redirected from https to %s", ErrInvalid, req.URL.Scheme)
			}
			return nil
		},
	}
}

func checkURL(u *url.URL) error {
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%w: URL: want http://… or https://…", ErrInvalid)
	}
	return nil
}

// Fetch adds the image at an http or https URL.
func (l *Library) Fetch(ctx context.Context, req Request, address string) (store.Image, error) {
	if err := req.check(); err != nil {
		return store.Image{}, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return store.Image{}, fmt.Errorf("%w: URL: want http://… or https://…", ErrInvalid) // err would show a password in it
	}
	if err := checkURL(u); err != nil {
		return store.Image{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	get, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return store.Image{}, fmt.Errorf("%w: URL: %w", ErrInvalid, err)
	}
	resp, err := l.client.Do(get)
	if err != nil {
		return store.Image{}, fmt.Errorf("%w %s: %w", ErrFetch, req.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return store.Image{}, fmt.Errorf("%w %s: %s answers %s", ErrFetch, req.Name, u.Host, resp.Status)
	}
	if resp.ContentLength > l.maxSize {
		return store.Image{}, fmt.Errorf("%w: %s has %d bytes, this server takes up to %d", ErrInvalid, req.Name, resp.ContentLength, l.maxSize)
	}
	watchdog := time.AfterFunc(stall, func() { cancel(fmt.Errorf("%s has sent nothing for %v", u.Host, stall)) })
	defer watchdog.Stop()
	img, err := l.Add(ctx, req, &petting{resp.Body, watchdog})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w %s: %w", ErrFetch, req.Name, cause)
	}
	return img, err
}

// petting puts off the watchdog with every read, and ends it with the body: to
// flush a large file may take longer.
type petting struct {
	r io.Reader
	t *time.Timer
}

func (p *petting) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	switch {
	case err != nil:
		p.t.Stop()
	case n > 0:
		p.t.Reset(stall)
	}
	return n, err
}
