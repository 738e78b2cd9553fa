package controlplane

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/internal/need"
)

// operation is one request that the API's description has.
type operation struct {
	method, path string
	fields       []string // of its JSON body, at the top
}

// described reads the API's description.
func described(t *testing.T, s *running) (list []operation) {
	t.Helper()
	_, _, text := request(t, s, "GET", "/v1/openapi.yaml", "", "", "")
	type schema struct {
		Ref        string         `yaml:"$ref"`
		Properties map[string]any `yaml:"properties"`
	}
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct{ Schema schema }
			} `yaml:"requestBody"`
		}
		Components struct{ Schemas map[string]schema }
	}
	// Path items have parameters beside methods.
	var raw map[string]any
	if err := yaml.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatal(err)
	}
	for _, item := range raw["paths"].(map[string]any) {
		delete(item.(map[string]any), "parameters")
	}
	b, err := yaml.Marshal(raw)
	if err == nil {
		err = yaml.Unmarshal(b, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			o := operation{method: strings.ToUpper(method), path: path}
			body := op.RequestBody.Content["application/json"].Schema
			if name, ok := strings.CutPrefix(body.Ref, "#/components/schemas/"); ok {
				body = doc.Components.Schemas[name]
			}
			for field := range body.Properties {
				o.fields = append(o.fields, field)
			}
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b operation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return list
}

var pathParameter = regexp.MustCompile(`\{[a-z_]+\}`)

// Whatever is in a request, it is answered soon, and never with what is an error of
// ours; and what it has left behind keeps nobody from reading.
func TestHostileRequests(t *testing.T) {
	need.Time(t, "sends some thousand requests")
	s := start(t, t.TempDir(), func(c *Config) { c.Operations.Rate = -1 }) // as fast as it can
	connect(t, s, "boot1")
	s.chassis("ready")
	secret, err := pki.Secret(s.dir, "operator.token")
	if err != nil {
		t.Fatal(err)
	}
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	values := []string{
		`null`, `true`, `-1`, `1e400`, `9007199254740993`, `18446744073709551616`, `""`, `"\u0000"`, `"a\u0000b\ud800"`, `[]`, `{}`, `[null]`, `[[]]`,
		`{"a":null}`, `["` + strings.Repeat("x", 300<<10) + `"]`, `"` + strings.Repeat("x", 900<<10) + `"`, `"../../etc/passwd"`, `"%s%n"`, `"a\nb"`,
		strings.Repeat("[", 9000) + strings.Repeat("]", 9000), deep(9990), deep(9997), deep(20), `[` + strings.Repeat(`"a",`, 100_000) + `"a"]`, `{"defaults":{"x":` + deep(9990) + `}}`,
	}
	conf, err := pki.ClientConfig(s.info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	t.Cleanup(c.CloseIdleConnections)
	send := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.info.API+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %.80s %.100s: %v", method, path, body, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s %.80s %.100s: %v", method, path, body, err)
		}
		return resp.StatusCode, string(b)
	}
	ask := func(o operation, path, body string) {
		t.Helper()
		began := time.Now()
		code, answer := send(o.method, path, body)
		if code == http.StatusTooManyRequests || code >= 500 && code != http.StatusBadGateway && code != http.StatusServiceUnavailable && code != http.StatusNotImplemented {
			t.Errorf("%s %.80s %.100s (%d bytes): %d %.300s", o.method, path, body, len(body), code, answer)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s %.80s %.100s: answered after %v", o.method, path, body, took)
		}
	}
	all := described(t, s)
	if len(all) < 50 {
		t.Fatalf("the description has %d requests", len(all))
	}
	// What is right but for one part of it.
	define := func(path, body string) {
		t.Helper()
		if code, answer := send("PUT", path, body); code >= 300 {
			t.Fatalf("%s: %d %s", path, code, answer)
		}
	}
	define("/v1/library/tasks/Task.Hostile", `{"injectableName":"Task.Hostile","runJob":"Job.Power","options":{"action":"on","x":null}}`)
	define("/v1/library/graphs/Graph.Hostile", `{"injectableName":"Graph.Hostile","tasks":[{"label":"a","taskName":"Task.Hostile"}]}`)
	for i, v := range values {
		sku := fmt.Sprint(`{"name":"h`, i, `",`)
		for _, c := range [][2]string{
			{"/v1/graphs", `{"graph":"Graph.Hostile","chassis":"` + testMAC + `","options":{"a":{"x":` + v + `}}}`},
			{"/v1/graphs", `{"graph":"Graph.Hostile","chassis":"` + testMAC + `","options":{"defaults":{"x":[` + v + `,` + v + `]}}}`},
			{"/v1/skus", sku + `"rules":[{"path":"a","equals":1}],"graph":"Graph.Hostile","options":{"a":{"x":` + v + `}}}`},
			{"/v1/skus", sku + `"rules":[{"path":"a","equals":` + v + `}]}`},
			{"/v1/pollers", `{"kind":"power","chassis":"` + testMAC + `","rules":[{"name":` + v + `,"state":"on"}]}`},
			{"/v1/pollers", `{"kind":"snmp","snmp":{"address":` + v + `,"community":` + v + `,"get":["1.3"]}}`},
			{"/v1/reservations", `{"ip":"192.0.2.5","mac":"52:54:00:00:00:09","hostname":` + v + `}`},
			{"/v1/chassis/" + testMAC + "/provision", `{"image":"x","run":{"files":` + v + `}}`},
		} {
			ask(operation{method: "POST"}, c[0], c[1])
		}
	}
	named := func(o operation, name string) string { return pathParameter.ReplaceAllString(o.path, name) }
	for _, o := range all {
		switch {
		case o.path == "/v1/events" || strings.HasSuffix(o.path, "/follow") || strings.HasSuffix(o.path, "/backup"): // streams
			continue
		case o.path == "/v1/whoami" || strings.HasPrefix(o.path, "/v1/images") && o.method == "POST":
			continue
		}
		for _, name := range []string{"%00", "%ff%fe", "..%2f..", strings.Repeat("x", 4000), "%25", "a%0ab"} {
			ask(o, named(o, name), "")
		}
		if o.method == "GET" {
			for _, query := range []string{"page=%00", "page=" + strings.Repeat("x", 5000), "limit=1e9", "chassis=%00%ff", "limit=-1&page=%25"} {
				ask(o, named(o, testMAC)+"?"+query, "")
			}
			continue
		}
		if o.method == "DELETE" {
			continue
		}
		ask(o, named(o, testMAC), strings.Repeat("[", 200_000))
		for _, v := range values {
			ask(o, named(o, testMAC), v)
			for _, field := range o.fields {
				ask(o, named(o, testMAC), fmt.Sprintf(`{%q:%s}`, field, v))
			}
		}
	}
	for _, o := range all {
		if o.method == "GET" && o.path != "/v1/events" {
			path := named(o, testMAC)
			if o.path == "/v1/telemetry" { // it is of one chassis
				path += "?chassis=" + testMAC
			}
			if code, answer := send("GET", path, ""); code >= 500 && code != http.StatusBadGateway || strings.HasPrefix(o.path, "/v1") && !strings.Contains(o.path, "{") && code != 200 {
				t.Errorf("afterwards %s: %d %.300s", path, code, answer)
			} else if strings.HasPrefix(answer, "{") && !json.Valid([]byte(answer)) {
				t.Errorf("afterwards %s: %.200s", path, answer)
			}
		}
	}
}
