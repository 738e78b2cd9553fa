// Package client talks to the control plane's REST interface, as an operator.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
)

// ErrUnreachable is wrapped by errors of requests that got no answer: nothing
// listens, the connection broke, or the server is not the one that was pinned.
var ErrUnreachable = errors.New("control plane not reachable")

// ErrNotFound is what a *Problem with status 404 is, ErrInvalid one with 400 or 422.
var (
	ErrNotFound = errors.New("not found")
	ErrInvalid  = errors.New("the request makes no sense")
)

// Problem is the server's refusal of a request (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// Error returns the detail, or the title where there is none.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return fmt.Sprintf("%s (HTTP status %d)", p.Title, p.Status)
}

// Is makes a Problem with status 404 an ErrNotFound, and one with 400 or 422 an
// ErrInvalid.
func (p *Problem) Is(target error) bool {
	switch p.Status {
	case http.StatusNotFound:
		return target == ErrNotFound
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return target == ErrInvalid
	}
	return false
}

// Config is how to reach a control plane. `teeth serve` writes one for this
// machine's operator, client.json in its data directory.
type Config struct {
	URL      string `json:"url"`       // https://host:port
	CASHA256 string `json:"ca_sha256"` // the SHA-256 of the CA certificate, hexadecimal
	Token    string `json:"token"`     // the operator's
}

// Load reads a Config from a file.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("how to reach the control plane: %w", err)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("how to reach the control plane: %s: %w", path, err)
	}
	return c, nil
}

// Client is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New returns a Client. It does not connect.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("control plane's URL %q: want https://host:port", c.URL)
	}
	tlsConfig, err := pki.ClientConfig(c.CASHA256)
	if err != nil {
		return nil, err
	}
	return &Client{
		base:  u,
		token: c.Token,
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     time.Minute,
		}},
	}, nil
}

// do sends a request and returns the response if it is a success.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, contentType string, size int64, body io.Reader, header http.Header) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if size > 0 {
		req.ContentLength = size
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(p)
		p.Status = resp.StatusCode
	}
	return nil, p
}

// maxAnswer bounds a JSON answer: a page of tasks with their results.
const maxAnswer = 256 << 20

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	contentType := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, contentType = bytes.NewReader(b), "application/json"
	}
	resp, err := c.do(ctx, method, path, query, contentType, 0, body, nil)
	if err != nil {
		return err
	}
	return decode(ctx, resp, out)
}

func decode(ctx context.Context, resp *http.Response, out any) error {
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: its answer broke off: %w", ErrUnreachable, err)
	}
	return nil
}

// pages collects the items of a list, page by page, up to limit (0: all).
func pages[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) ([]T, error) {
	all := []T{}
	if query == nil {
		query = url.Values{}
	}
	for {
		if limit > 0 {
			query.Set("limit", strconv.Itoa(min(limit-len(all), 1000)))
		}
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if err := c.call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" || len(page.Items) == 0 || limit > 0 && len(all) >= limit {
			return all, nil
		}
		query.Set("page", page.Next)
	}
}
