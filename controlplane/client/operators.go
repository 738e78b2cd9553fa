package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// WhoAmI is what the server takes the client for.
type WhoAmI struct {
	User    string     `json:"user"`
	Role    string     `json:"role"`
	Token   string     `json:"token,omitempty"` // its name
	Expires *time.Time `json:"expires,omitempty"`
}

// User may use the control plane. Role is admin, operator or viewer.
type User struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Tokens  int       `json:"tokens"`
	Created time.Time `json:"created"`
}

// Token is a secret by which a user's program shows who it is.
type Token struct {
	ID       string     `json:"id"`
	User     string     `json:"user"`
	Name     string     `json:"name"`
	Role     string     `json:"role"`
	Created  time.Time  `json:"created"`
	Expires  *time.Time `json:"expires,omitempty"`
	LastUsed *time.Time `json:"last_used,omitempty"`
}

// NewToken is a Token with its secret, which the server shows this one time.
type NewToken struct {
	Token
	Secret string `json:"secret"`
}

// AuditEntry is a request that changed something, or was to. Status is that of
// HTTP; 0: it is not answered yet, or the server ended before it was.
type AuditEntry struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Token   string    `json:"token,omitempty"`
	Address string    `json:"address"`
	Method  string    `json:"method"`
	Path    string    `json:"path"`
	Target  string    `json:"target,omitempty"` // id of the chassis
	Status  int       `json:"status"`
	Detail  string    `json:"detail,omitempty"`
	Millis  int64     `json:"millis"`
}

// Spec is what quality control compares a chassis with, in the form of package
// hwinfo/qc.
type Spec struct {
	Name    string          `json:"name"`
	Spec    json.RawMessage `json:"spec,omitempty"` // left out in lists
	Created time.Time       `json:"created"`
	Updated time.Time       `json:"updated"`
}

// WhoAmI returns what the server takes this client for.
func (c *Client) WhoAmI(ctx context.Context) (WhoAmI, error) {
	var out WhoAmI
	err := c.call(ctx, http.MethodGet, "/v1/whoami", nil, nil, &out)
	return out, err
}

// ListUsers returns all users.
func (c *Client) ListUsers(ctx context.Context) ([]User, error) {
	return pages[User](ctx, c, "/v1/users", nil, 0)
}

// AddUser adds a user, who has no token yet.
func (c *Client) AddUser(ctx context.Context, name, role string) (User, error) {
	var out User
	err := c.call(ctx, http.MethodPost, "/v1/users", nil, map[string]string{"name": name, "role": role}, &out)
	return out, err
}

func userPath(name string) string { return "/v1/users/" + url.PathEscape(name) }

// SetUserRole changes what a user, and every token of it, may at most.
func (c *Client) SetUserRole(ctx context.Context, name, role string) error {
	return c.call(ctx, http.MethodPatch, userPath(name), nil, map[string]string{"role": role}, nil)
}

// RemoveUser removes a user and its tokens.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, userPath(name), nil, nil, nil)
}

// ListTokens returns the tokens of a user, or all that the caller may see.
func (c *Client) ListTokens(ctx context.Context, user string) ([]Token, error) {
	q := url.Values{}
	if user != "" {
		q.Set("user", user)
	}
	return pages[Token](ctx, c, "/v1/tokens", q, 0)
}

// AddToken makes a token of a user (the caller, if empty) with a role (the
// caller's, if empty) that ends after a time (never, if 0).
func (c *Client) AddToken(ctx context.Context, user, name, role string, expires time.Duration) (NewToken, error) {
	in := struct {
		User      string `json:"user,omitempty"`
		Name      string `json:"name"`
		Role      string `json:"role,omitempty"`
		ExpiresIn int64  `json:"expires_in,omitempty"`
	}{user, name, role, int64(expires / time.Second)}
	var out NewToken
	err := c.call(ctx, http.MethodPost, "/v1/tokens", nil, in, &out)
	return out, err
}

// RemoveToken revokes a token.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, nil, nil)
}

// Audit returns up to limit (0: all) of the newest entries of the audit trail,
// newest first, of one user and about one chassis, where given.
func (c *Client) Audit(ctx context.Context, user, chassis string, limit int) ([]AuditEntry, error) {
	q := url.Values{}
	if user != "" {
		q.Set("user", user)
	}
	if chassis != "" {
		q.Set("chassis", chassis)
	}
	return pages[AuditEntry](ctx, c, "/v1/audit", q, limit)
}

// Backup writes a backup of the control plane to w, with the images if wanted. An
// error means that what w has got is none.
func (c *Client) Backup(ctx context.Context, w io.Writer, images bool) error {
	resp, err := c.do(ctx, http.MethodPost, "/v1/backup", url.Values{"images": {strconv.FormatBool(images)}}, "", 0, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out := &writer{w: w}
	if _, err := io.Copy(out, resp.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if out.err != nil {
			return fmt.Errorf("backup: %w", out.err)
		}
		return fmt.Errorf("%w: the backup broke off: %w", ErrUnreachable, err)
	}
	return nil
}

// writer remembers its error, to tell it from one of reading.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.err = err
	return n, err
}

// ListSpecs returns all specs, without their contents.
func (c *Client) ListSpecs(ctx context.Context) ([]Spec, error) {
	return pages[Spec](ctx, c, "/v1/specs", nil, 0)
}

func specPath(name string) string { return "/v1/specs/" + url.PathEscape(name) }

// Spec returns the spec with this name.
func (c *Client) Spec(ctx context.Context, name string) (Spec, error) {
	var out Spec
	err := c.call(ctx, http.MethodGet, specPath(name), nil, nil, &out)
	return out, err
}

// PutSpec adds a spec or replaces the one of its name.
func (c *Client) PutSpec(ctx context.Context, name string, spec json.RawMessage) (Spec, error) {
	var out Spec
	err := c.call(ctx, http.MethodPut, specPath(name), nil, spec, &out)
	return out, err
}

// RemoveSpec removes a spec.
func (c *Client) RemoveSpec(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, specPath(name), nil, nil, nil)
}
