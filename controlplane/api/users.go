package api

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/hwinfo/qc"
)

// operatorRoutes are about those who use the interface: users, tokens, the audit
// trail; and the specs they keep.
var operatorRoutes = []route{
	{"GET /v1/whoami", (*server).whoami},
	{"GET /v1/users", (*server).listUsers},
	{"POST /v1/users", (*server).addUser},
	{"PATCH /v1/users/{name}", (*server).changeUser},
	{"DELETE /v1/users/{name}", (*server).removeUser},
	{"GET /v1/tokens", (*server).listTokens},
	{"POST /v1/tokens", (*server).addToken},
	{"DELETE /v1/tokens/{id}", (*server).removeToken},
	{"GET /v1/audit", (*server).audit},
	{"POST /v1/backup", (*server).backup},
	{"GET /v1/specs", (*server).listSpecs},
	{"GET /v1/specs/{name}", (*server).getSpec},
	{"PUT /v1/specs/{name}", (*server).putSpec},
	{"DELETE /v1/specs/{name}", (*server).removeSpec},
}

// name is what users, tokens and specs are called.
var nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

func checkName(what, name string) error {
	if !nameShape.MatchString(name) {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("%s name %.80q: want 1 to 64 letters, digits and . _ @ -, the first a letter or digit", what, name)}
	}
	return nil
}

func checkRole(r store.Role) error {
	if !slices.Contains(store.Roles, r) {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("role %.32q: want admin, operator or viewer", string(r))}
	}
	return nil
}

// WhoAmI is what the server takes a caller for.
type WhoAmI struct {
	User    string     `json:"user"`
	Role    store.Role `json:"role"`
	Token   string     `json:"token,omitempty"` // its name
	Expires *time.Time `json:"expires,omitempty"`
}

func (s *server) whoami(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	return write(w, http.StatusOK, WhoAmI{User: c.user, Role: c.role, Token: c.token.Name, Expires: c.token.Expires})
}

func (s *server) listUsers(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListUsers, func(u store.User) string { return u.Name })
}

func (s *server) addUser(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Name string     `json:"name"`
		Role store.Role `json:"role"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	if err := checkName("user", in.Name); err != nil {
		return err
	}
	if in.Name == localAdmin {
		return &refusal{http.StatusConflict, localAdmin + " is whoever has access to the server's data directory: choose another name"}
	}
	if err := checkRole(in.Role); err != nil {
		return err
	}
	u, err := s.Store.AddUser(r.Context(), in.Name, in.Role)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/users/"+u.Name)
	return write(w, http.StatusCreated, u)
}

func (s *server) changeUser(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Role store.Role `json:"role"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	if err := checkRole(in.Role); err != nil {
		return err
	}
	if err := s.Store.SetUserRole(r.Context(), r.PathValue("name"), in.Role); err != nil {
		return err
	}
	s.gate.forget()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) removeUser(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.RemoveUser(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	s.gate.forget()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listTokens shows an admin those of all or of one user, anybody else their own.
func (s *server) listTokens(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	c, user := callerOf(r), r.URL.Query().Get("user")
	if c.role != store.Admin {
		if user != "" && user != c.user {
			return &refusal{http.StatusForbidden, "only an admin sees the tokens of others"}
		}
		user = c.user
	}
	items, err := s.Store.ListTokens(r.Context(), user, r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(t store.Token) string { return t.ID }))
}

// maxTokenLife bounds how far in the future a token's end may lie, in seconds.
const maxTokenLife = 10 * 365 * 24 * 3600

// NewToken is a token with its secret, which is shown this one time.
type NewToken struct {
	store.Token
	Secret string `json:"secret"`
}

// addToken makes a token, which may not do or last more than the caller's own.
func (s *server) addToken(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		User      string     `json:"user"`
		Name      string     `json:"name"`
		Role      store.Role `json:"role"`
		ExpiresIn int64      `json:"expires_in"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	c := callerOf(r)
	if in.User == "" {
		in.User = c.user
	}
	if in.Role == "" {
		in.Role = c.role
	}
	if err := checkName("token", in.Name); err != nil {
		return err
	}
	if err := checkRole(in.Role); err != nil {
		return err
	}
	if in.ExpiresIn < 0 || in.ExpiresIn > maxTokenLife {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("expires_in %d: want seconds from now, at most ten years, or 0 for a token without end", in.ExpiresIn)}
	}
	switch {
	case in.User == localAdmin:
		return &refusal{http.StatusConflict, localAdmin + " has the one token in the data directory: name a user (teeth user add)"}
	case c.role != store.Admin && in.User != c.user:
		return &refusal{http.StatusForbidden, "only an admin makes tokens for others"}
	case !c.role.Includes(in.Role):
		return &refusal{http.StatusForbidden, fmt.Sprintf("a token of the role %s cannot make one of the role %s", c.role, in.Role)}
	}
	tok := store.Token{User: in.User, Name: in.Name, Role: in.Role}
	if in.ExpiresIn > 0 {
		at := time.Now().Add(time.Duration(in.ExpiresIn) * time.Second).UTC()
		tok.Expires = &at
	}
	if own := c.token.Expires; own != nil && c.user == in.User && (tok.Expires == nil || tok.Expires.After(*own)) {
		tok.Expires = own // a token that has leaked must not beget one that outlives it
	}
	secret := pki.NewSecret()
	tok, err := s.Store.AddToken(r.Context(), tok, digestOf(secret))
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, NewToken{tok, secret})
}

func (s *server) removeToken(w http.ResponseWriter, r *http.Request) error {
	tok, err := s.Store.Token(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if c := callerOf(r); c.role != store.Admin && tok.User != c.user {
		return &refusal{http.StatusForbidden, "only an admin revokes the tokens of others"}
	}
	if err := s.Store.RemoveToken(r.Context(), tok.ID); err != nil {
		return err
	}
	s.gate.forget()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) audit(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := store.AuditFilter{User: q.Get("user")}
	if f.Target, err = s.chassisParameter(r); err != nil {
		return err
	}
	items, err := s.Store.ListAudit(r.Context(), f, q.Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(e store.AuditEntry) string { return e.ID }))
}

func (s *server) listSpecs(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListSpecs, func(sp store.Spec) string { return sp.Name })
}

func (s *server) getSpec(w http.ResponseWriter, r *http.Request) error {
	sp, err := s.Store.Spec(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, sp)
}

func (s *server) putSpec(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := checkName("spec", name); err != nil {
		return err
	}
	body, err := readRaw(w, r)
	if err != nil {
		return err
	}
	if _, err := qc.Parse(body); err != nil {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("%s: %v", name, err)}
	}
	sp, err := s.Store.PutSpec(r.Context(), name, body)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, sp)
}

func (s *server) removeSpec(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.Store.RemoveSpec(r.Context(), r.PathValue("name")))
}
