package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// agree checks that what the server encodes, what the client decodes and what the
// description says of it have the same fields.
func agree(t *testing.T, schemas map[string][2]any) {
	t.Helper()
	d, _ := parse(t)
	for name, pair := range schemas {
		var described []string
		for p := range d.Components.Schemas[name].Properties {
			described = append(described, p)
		}
		slices.Sort(described)
		if server, c := fields(pair[0]), fields(pair[1]); !slices.Equal(server, described) || !slices.Equal(c, described) {
			t.Errorf("%s:\ndescribed %q\nserver    %q\nclient    %q", name, described, server, c)
		}
	}
}

func TestOperatorSchemasAgree(t *testing.T) {
	agree(t, map[string][2]any{
		"WhoAmI":      {WhoAmI{}, client.WhoAmI{}},
		"User":        {store.User{}, client.User{}},
		"Token":       {store.Token{}, client.Token{}},
		"NewToken":    {NewToken{}, client.NewToken{}},
		"AuditEntry":  {store.AuditEntry{}, client.AuditEntry{}},
		"Spec":        {store.Spec{}, client.Spec{}},
		"Server":      {store.Server{}, client.Server{}},
		"AgentConfig": {AgentConfig{}, client.AgentConfig{}},
		"Setting":     {settings.Setting{}, client.Setting{}},
	})
}

// desk is an interface without sessions, engine and images.
type desk struct {
	t       *testing.T
	store   *store.Store
	handler http.Handler
	from    string
}

func newDesk(t *testing.T, l Limits) *desk {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := Handler(t.Context(), Config{Store: s, Token: "builtin", Log: slog.New(slog.DiscardHandler), Limits: l})
	return &desk{t, s, h, "192.0.2.1:1"}
}

// ask sends a request, checks the status and decodes the answer.
func (d *desk) ask(token, line, body string, want int, out any) *httptest.ResponseRecorder {
	d.t.Helper()
	method, path, _ := strings.Cut(line, " ")
	r := httptest.NewRequestWithContext(d.t.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = d.from
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	if w.Code != want {
		d.t.Errorf("%s: %d %s, want %d", line, w.Code, w.Body, want)
	}
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			d.t.Errorf("%s: %v: %s", line, err, w.Body)
		}
	}
	return w
}

// user adds a user with a token and returns the token's secret.
func (d *desk) user(name, role string) string {
	d.t.Helper()
	d.ask("builtin", "POST /v1/users", fmt.Sprintf(`{"name":%q,"role":%q}`, name, role), 201, nil)
	var tok NewToken
	d.ask("builtin", "POST /v1/tokens", fmt.Sprintf(`{"user":%q,"name":"first","role":%q}`, name, role), 201, &tok)
	return tok.Secret
}

// Every route that there is asks for its role, before it does anything.
func TestEveryRouteAsksForARole(t *testing.T) {
	d := newDesk(t, Limits{PerToken: -1, PerAddress: -1, Failures: -1})
	secrets := map[store.Role]string{}
	for _, role := range store.Roles {
		secrets[role] = d.user("the-"+string(role), string(role))
	}
	for _, r := range routes {
		line := strings.NewReplacer("{id}", "x", "{name}", "x", "{host}", "x").Replace(r.pattern)
		if i := strings.Index(line, "{"); i >= 0 {
			line = line[:i] + "x" // another parameter
		}
		d.ask("", line, "", 401, nil)
		d.ask("wrong", line, "", 401, nil)
		for _, role := range store.Roles {
			if role.Includes(roleOf(r.pattern)) {
				continue // what it does needs more than there is here
			}
			if w := d.ask(secrets[role], line, "", 403, nil); !strings.Contains(w.Body.String(), string(roleOf(r.pattern))) {
				t.Errorf("%s: the refusal does not say what is needed: %s", line, w.Body)
			}
		}
	}
}

// A route in roles that there is not is a misspelt one, which would leave the real
// one to those who may too little.
func TestRolesAreOfRoutes(t *testing.T) {
	for pattern := range roles {
		if !slices.ContainsFunc(routes, func(r route) bool { return r.pattern == pattern }) {
			t.Errorf("%s: no such route", pattern)
		}
	}
}

func TestTokens(t *testing.T) {
	d := newDesk(t, Limits{Failures: -1})
	ann, bob := d.user("ann", "operator"), d.user("bob", "viewer")
	var who WhoAmI
	if d.ask(ann, "GET /v1/whoami", "", 200, &who); who.User != "ann" || who.Role != "operator" || who.Token != "first" {
		t.Errorf("%+v", who)
	}
	if d.ask("builtin", "GET /v1/whoami", "", 200, &who); who.User != "local-admin" || who.Role != "admin" {
		t.Errorf("%+v", who)
	}
	// What one may give away is what one has.
	d.ask(ann, "POST /v1/tokens", `{"name":"second","role":"admin"}`, 403, nil)
	d.ask(ann, "POST /v1/tokens", `{"name":"second","user":"bob"}`, 403, nil)
	d.ask("builtin", "POST /v1/tokens", `{"name":"second","user":"bob","role":"operator"}`, 409, nil)
	d.ask("builtin", "POST /v1/tokens", `{"name":"second"}`, 409, nil)
	d.ask("builtin", "POST /v1/tokens", `{"name":"a b","user":"bob"}`, 400, nil)
	d.ask("builtin", "POST /v1/tokens", `{"name":"a","user":"bob","role":"viewer","expires_in":-1}`, 400, nil)
	var brief, own NewToken
	d.ask(ann, "POST /v1/tokens", `{"name":"brief","role":"viewer","expires_in":3600}`, 201, &brief)
	if brief.Role != "viewer" || brief.Expires == nil || len(brief.Secret) != 43 {
		t.Errorf("%+v", brief)
	}
	d.ask(brief.Secret, "POST /v1/specs/x", "", 404, nil)
	d.ask(brief.Secret, "PUT /v1/specs/x", "{}", 403, nil)
	// A token that ends begets none that outlives it.
	d.ask(brief.Secret, "POST /v1/tokens", `{"name":"longer"}`, 201, &own)
	if own.Expires == nil || own.Expires.After(*brief.Expires) {
		t.Errorf("%v outlives %v", own.Expires, brief.Expires)
	}
	var tokens struct{ Items []store.Token }
	if d.ask(ann, "GET /v1/tokens", "", 200, &tokens); len(tokens.Items) != 3 {
		t.Errorf("ann sees %+v", tokens.Items)
	}
	if d.ask("builtin", "GET /v1/tokens?user=bob", "", 200, &tokens); len(tokens.Items) != 1 {
		t.Errorf("of bob: %+v", tokens.Items)
	}
	d.ask(bob, "GET /v1/tokens?user=ann", "", 403, nil)
	d.ask(bob, "DELETE /v1/tokens/"+brief.ID, "", 403, nil)
	d.ask(ann, "DELETE /v1/tokens/"+brief.ID, "", 204, nil)
	d.ask(brief.Secret, "GET /v1/whoami", "", 401, nil)
	// A change of role acts at once, also on tokens in use.
	d.ask(ann, "PUT /v1/specs/x", "{}", 200, nil)
	d.ask("builtin", "PATCH /v1/users/ann", `{"role":"viewer"}`, 204, nil)
	d.ask(ann, "PUT /v1/specs/x", "{}", 403, nil)
	d.ask("builtin", "DELETE /v1/users/ann", "", 204, nil)
	d.ask(ann, "GET /v1/whoami", "", 401, nil)
	for body, want := range map[string]int{
		`{"name":"local-admin","role":"admin"}`: 409, `{"name":"bob","role":"admin"}`: 409,
		`{"name":"eve","role":"root"}`: 400, `{"name":"","role":"admin"}`: 400, `{"name":"../x","role":"admin"}`: 400,
	} {
		d.ask("builtin", "POST /v1/users", body, want, nil)
	}
}

func TestTokenThatHasEnded(t *testing.T) {
	d := newDesk(t, Limits{})
	d.user("ann", "viewer")
	past := time.Now().Add(-time.Second)
	if _, err := d.store.AddToken(t.Context(), store.Token{User: "ann", Name: "old", Role: "viewer", Expires: &past}, digestOf("old secret")); err != nil {
		t.Fatal(err)
	}
	d.ask("old secret", "GET /v1/whoami", "", 401, nil)
	d.ask("old secret", "GET /v1/whoami", "", 401, nil) // nor from the cache
}

func TestLimits(t *testing.T) {
	d := newDesk(t, Limits{PerToken: 1, PerAddress: -1, Failures: 0.1})
	ann := d.user("ann", "viewer")
	d.ask(ann, "GET /v1/whoami", "", 200, nil)
	// Wrong tokens are first refused, then not even looked at.
	for range failureBurst {
		d.ask("wrong", "GET /v1/whoami", "", 401, nil)
	}
	w := d.ask("wrong", "GET /v1/whoami", "", 429, nil)
	if after := w.Header().Get("Retry-After"); after == "" || after == "0" {
		t.Errorf("Retry-After: %q", after)
	}
	// Who is known, and other addresses, are served all the same.
	d.ask(ann, "GET /v1/whoami", "", 200, nil)
	d.ask("builtin", "GET /v1/whoami", "", 200, nil)
	d.from = "192.0.2.2:1"
	d.ask("wrong", "GET /v1/whoami", "", 401, nil)
	// One token has so many requests, another its own.
	refused := 0
	for range 20 {
		r := httptest.NewRequest("GET", "/v1/whoami", nil)
		r.Header.Set("Authorization", "Bearer "+ann)
		w := httptest.NewRecorder()
		if d.handler.ServeHTTP(w, r); w.Code == 429 {
			refused++
		}
	}
	if refused < 14 || refused == 20 {
		t.Errorf("%d of 20 refused", refused)
	}
	d.ask("builtin", "GET /v1/whoami", "", 200, nil)

	d = newDesk(t, Limits{PerToken: -1, PerAddress: 1})
	for range burstSeconds + 1 {
		d.ask("", "GET /v1/openapi.yaml", "", 200, nil)
	}
	d.ask("", "GET /v1/openapi.yaml", "", 429, nil)
	d.from = "[2001:db8::1]:1"
	d.ask("", "GET /v1/openapi.yaml", "", 200, nil)
}

// One user cannot take all event streams from the others.
func TestEventStreamsAreBounded(t *testing.T) {
	var w watchers
	var ends []func()
	open := func(user string) error {
		end, err := w.begin(user)
		if err == nil {
			ends = append(ends, end)
		}
		return err
	}
	for range maxStreamsOfAUser {
		if err := open("ann"); err != nil {
			t.Fatal(err)
		}
	}
	if err := open("ann"); err == nil || status(err) != http.StatusTooManyRequests {
		t.Errorf("ann: %v", err)
	}
	for i := maxStreamsOfAUser; i < maxStreams; i++ {
		if err := open(fmt.Sprintf("user-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := open("bob"); err == nil || status(err) != http.StatusServiceUnavailable {
		t.Errorf("bob: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if w.all != 0 || len(w.each) != 0 {
		t.Errorf("%d, %v are left", w.all, w.each)
	}
}

func TestAuditTrail(t *testing.T) {
	d := newDesk(t, Limits{})
	ann := d.user("ann", "viewer")
	d.ask(ann, "PUT /v1/specs/x?secret=1", `{"secret":2}`, 403, nil)
	d.ask("builtin", "PUT /v1/specs/x", `{"secret":2}`, 400, nil)
	d.ask("wrong", "PUT /v1/specs/x", `{}`, 401, nil)
	d.ask("builtin", "GET /v1/specs", ``, 200, nil)
	var trail struct{ Items []store.AuditEntry }
	w := d.ask("builtin", "GET /v1/audit", "", 200, &trail)
	var got []string
	for _, e := range trail.Items {
		got = append(got, fmt.Sprintf("%s %s %s %s %s %d", e.User, e.Token, e.Address, e.Method, e.Path, e.Status))
	}
	want := []string{
		"local-admin  192.0.2.1 PUT /v1/specs/x 400",
		"ann first 192.0.2.1 PUT /v1/specs/x 403",
		"local-admin  192.0.2.1 POST /v1/tokens 201",
		"local-admin  192.0.2.1 POST /v1/users 201",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if strings.Contains(w.Body.String(), "secret=") || strings.Contains(w.Body.String(), ann) {
		t.Errorf("the trail holds secrets: %s", w.Body)
	}
	if !strings.Contains(trail.Items[1].Detail, "operator") {
		t.Errorf("it does not say why: %+v", trail.Items[1])
	}
	// What cannot be recorded is not done.
	d.store.Close()
	d.ask("builtin", "POST /v1/users", `{"name":"bob","role":"viewer"}`, 503, nil)
}
