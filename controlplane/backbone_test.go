package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// saysApps sends a status of apps over the session.
func (a *agent) saysApps(state backbone.State, apps map[string]backbone.App, r backbone.Report) {
	a.t.Helper()
	st := backbone.Status{HostID: testUUID, State: state, Apps: apps, HostAgent: backbone.HostAgent{Status: "running", Version: "1.0"}}
	if err := st.SetReport(r); err != nil {
		a.t.Fatal(err)
	}
	data, err := json.Marshal(st)
	if err != nil {
		a.t.Fatal(err)
	}
	if reply := a.call(teeth.MethodAppStatus, teeth.AppParams{Data: data}); reply.Kind != teeth.KindResult {
		a.t.Fatalf("app_status refused: %v", reply.Err)
	}
}

// TestAppsOverTheSession wants an app of a chassis, from the REST interface to the agent's
// session and back.
func TestAppsOverTheSession(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	if !a.welcome.Apps {
		t.Error("the server does not say that it takes statuses of apps")
	}
	a.saysApps(backbone.StateOK, nil, backbone.Report{BootID: "b", Sequence: 1})
	on := true
	want := map[string]backbone.App{"web": {Version: "1.8", URL: "http://files/web.deb", Running: &on, Config: json.RawMessage(`{"default":{"x":3}}`)}}
	if h, err := s.client.ChangeApps(t.Context(), "SN1", client.AppChange{Put: want}); err != nil || !h.Desired || h.Settled {
		t.Fatalf("%+v, %v", h, err)
	}
	type result struct {
		h   client.AppHost
		err error
	}
	done := make(chan result, 1)
	go func() {
		h, err := s.client.WaitApps(context.Background(), testMAC, nil)
		done <- result{h, err}
	}()
	var p teeth.AppParams
	a.accept(teeth.MethodAppConfig, &p)
	got, err := backbone.ParseApps(p.Data)
	if err != nil || !backbone.Satisfies(want, got) || p.Revision == 0 {
		t.Fatalf("%s, revision %d, %v", p.Data, p.Revision, err)
	}
	a.saysApps(backbone.StateConverging, nil, backbone.Report{BootID: "b", Sequence: 2, Revision: p.Revision, Apps: map[string]backbone.AppReport{"web": {Step: "download", Percent: 40}}})
	if h, err := s.client.AppHost(t.Context(), "SN1"); err != nil || h.State != "converging" || h.Apps[0].Step != "download" || h.Apps[0].Percent != 40 || h.Apps[0].State != "absent" {
		t.Errorf("%+v, %v", h, err)
	}
	a.saysApps(backbone.StateOK, got, backbone.Report{BootID: "b", Sequence: 3, Revision: p.Revision})
	if r := <-done; r.err != nil || !r.h.Settled || !r.h.Responding || r.h.Transport != "session" {
		t.Fatalf("%+v, %v", r.h, r.err)
	}
	a.quiet()
	go func() {
		_, err := s.client.ChangeApps(context.Background(), "SN1", client.AppChange{Remove: []string{"web"}})
		done <- result{err: err}
	}()
	a.accept(teeth.MethodAppConfig, &p)
	if r := <-done; r.err != nil || string(p.Data) != "{}" {
		t.Errorf("%s, %v", p.Data, r.err)
	}
	a.saysApps(backbone.StateOK, got, backbone.Report{BootID: "b", Sequence: 4, Revision: p.Revision - 1, Refused: &backbone.Refusal{Revision: p.Revision, Reason: "web is needed"}})
	if h, err := s.client.WaitApps(t.Context(), "SN1", nil); !errors.Is(err, client.ErrApps) || !strings.Contains(err.Error(), "web is needed") || h.State != "refused" {
		t.Errorf("%+v, %v", h, err)
	}
	if reply := a.call(teeth.MethodAppStatus, teeth.AppParams{Data: json.RawMessage(`{"host_id":"h"}`)}); reply.Kind != teeth.KindError {
		t.Errorf("%+v", reply)
	}
	go func() { done <- result{err: s.client.PingAppHost(context.Background(), "SN1")} }()
	a.accept(teeth.MethodAppPing, &struct{}{})
	if r := <-done; r.err != nil {
		t.Error(r.err)
	}
	if err := s.client.ForgetApps(t.Context(), "SN1"); err != nil {
		t.Error(err)
	}
	if all, err := s.client.ListAppHosts(t.Context()); err != nil || len(all) != 1 || all[0].Desired {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := s.client.ChangeApps(t.Context(), "nobody", client.AppChange{Put: want}); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
}

// TestAppRequests has what the REST interface refuses.
func TestAppRequests(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	connect(t, s, "boot1")
	s.chassis("ready")
	operator, err := os.ReadFile(filepath.Join(s.dir, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, body string
		code         int
		says         string
	}{
		{"PUT", `{}`, 400, "apps is missing"},
		{"PUT", `{"apps":{"web":{"version":"1","url":"http://h/x","config":{},"runing":true}}}`, 400, `app web: there is no field \"runing\"`},
		{"PUT", `{"apps":{"web":{"version":"1","url":"http://h/x","config":[]}}}`, 400, "app web: config: want an object, not []"},
		{"PUT", `{"apps":{},"force":true}`, 400, "unknown field"},
		{"PATCH", `{}`, 400, "neither put nor remove"},
		{"PATCH", `{"remove":["web"]}`, 404, "no app"},
		{"PUT", `{"apps":{}}`, 200, `"desired":true`},
		{"PUT", `{"apps":{"web":{"version":"1","url":"http://h/x","config":{},"x-owner":"me","rank":"2"}}}`, 200, `"x-owner":"me"`},
	} {
		code, _, body := request(t, s, tt.method, "/v1/apps/SN1", "application/json", tt.body, "Bearer "+strings.TrimSpace(string(operator)))
		if code != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("%s %s: %d %s; want %d and %s", tt.method, tt.body, code, body, tt.code, tt.says)
		}
	}
}

// TestAppSecrets keeps configurations, which may hold passwords, from those who may only
// look, and shows them the rest.
func TestAppSecrets(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	const config = `{"db":{"password":"hunter2"}}`
	want := map[string]backbone.App{"web": {Version: "1", URL: "http://files/web.deb?key=hunter2", Config: json.RawMessage(config)}}
	a.saysApps(backbone.StateOK, map[string]backbone.App{"web": {Version: "1", Config: json.RawMessage(config)}}, backbone.Report{BootID: "b", Sequence: 1})
	if _, err := s.client.ChangeApps(t.Context(), "SN1", client.AppChange{Put: want}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.AddUser(t.Context(), "watcher", "viewer"); err != nil {
		t.Fatal(err)
	}
	token, err := s.client.AddToken(t.Context(), "watcher", "t", "viewer", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/apps/SN1", "/v1/apps"} {
		code, _, body := request(t, s, "GET", path, "", "", "Bearer "+token.Secret)
		if code != 200 || strings.Contains(body, "hunter2") || !strings.Contains(body, `"version":"1"`) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if h, err := s.client.AppHost(t.Context(), "SN1"); err != nil || !strings.Contains(string(h.DesiredApps), "hunter2") {
		t.Errorf("%+v, %v", h, err)
	}
	trail, err := s.client.Audit(t.Context(), "", s.chassis("ready").ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(trail)
	if err != nil || strings.Contains(string(b), "hunter2") || !strings.Contains(string(b), `put web \"1\"`) {
		t.Errorf("audit trail %s, %v", b, err)
	}
}

// TestBackboneConfig has what makes no sense, and what agents are given of a broker.
func TestBackboneConfig(t *testing.T) {
	for says, c := range map[string]BackboneConfig{
		"no URL of a broker":           {CA: "x"},
		"give it one as well":          {Slaves: "amqp://h/"},
		"want amqp[s]://user:password": {URLs: []string{"amqp://h/"}, Slaves: "http://u:secret@h/"},
		"no such file":                 {URLs: []string{"amqp://h/"}, Slaves: "amqps://h/", CA: "/nonexistent"},
	} {
		_, err := c.broker()
		if err == nil {
			_, err = c.slaves()
		}
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want %q", c, err, says)
		}
	}
	dir := t.TempDir()
	s := start(t, dir, nil)
	pemFile, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pemFile)
	sum := sha256.Sum256(block.Bytes)
	b, err := BackboneConfig{URLs: []string{"amqps://h/"}, Slaves: "amqps://bbslave:x@h/", CA: filepath.Join(dir, "ca.pem")}.slaves()
	if err != nil || b.CASHA256 != hex.EncodeToString(sum[:]) || b.CASHA256 != s.info.CASHA256 {
		t.Errorf("%+v, %v", b, err)
	}
}
