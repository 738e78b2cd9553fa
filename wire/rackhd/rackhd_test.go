package rackhd

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNodeID(t *testing.T) {
	const chassis = "0F1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	node := NodeID(chassis)
	if node != "0f1e2d3c4b5a69788796a5b4" {
		t.Errorf("node id %q", node)
	}
	prefix, ok := ChassisPrefix(strings.ToUpper(node))
	if !ok || !strings.HasPrefix(strings.ToLower(chassis), prefix) || len(prefix) != 28 {
		t.Errorf("prefix %q %v", prefix, ok)
	}
	if NodeID("") != "" || NodeID("short") != "" {
		t.Error("a node id of what is no chassis id")
	}
	for _, bad := range []string{"", "0f1e2d3c4b5a69788796a5b", "0f1e2d3c4b5a69788796a5bg", chassis, strings.Repeat("%", 24)} {
		if p, ok := ChassisPrefix(bad); ok {
			t.Errorf("%q is taken for a node id: %q", bad, p)
		}
	}
}

func TestEncode(t *testing.T) {
	node := "0f1e2d3c4b5a69788796a5b4"
	at := time.Date(2026, 11, 21, 9, 45, 20, 254e6, time.UTC)
	for _, c := range []struct {
		in        any
		typ, body string
	}{
		{map[string]any{"a": "<&>"}, "Object", `{"a":"<&>"}`},
		{Result{Value: nil}, "Result", `{"value":null}`},
		{Result{Value: map[string]any{}}, "Result", `{"value":{}}`},
		{IPAddress{"10.0.0.1"}, "IpAddress", `{"value":"10.0.0.1"}`},
		{MACAddress{"02:00:00:00:00:01"}, "MacAddress", `{"value":"02:00:00:00:00:01"}`},
		{NewError("NotFoundError", "no such graph", 404), "ErrorEvent",
			`{"name":"NotFoundError","message":"no such graph","stack":"NotFoundError: no such graph","context":{},"status":404}`},
		{NewEvent("graph", "finished", Information, "id", node, at, map[string]any{"status": "succeeded"}), "Object",
			`{"version":"1.0","type":"graph","action":"finished","severity":"information","typeId":"id","nodeId":"0f1e2d3c4b5a69788796a5b4",` +
				`"createdAt":"2026-11-21T09:45:20.254Z","data":{"status":"succeeded"}}`},
	} {
		typ, body, err := Encode(c.in)
		if err != nil || typ != c.typ || string(body) != c.body {
			t.Errorf("Encode(%v) = %s %s %v, want %s %s", c.in, typ, body, err, c.typ, c.body)
		}
	}
	for _, bad := range []any{nil, "text", 1, []int{1}, json.RawMessage("null"), map[string]any{"x": strings.Repeat("x", MaxBody)}, func() {}} {
		if _, body, err := Encode(bad); err == nil {
			t.Errorf("%T is encoded as %.40s, which would reset peers", bad, body)
		}
	}
	e := NewEvent("heartbeat", "updated", Information, "host.example.teeth", "", at, nil)
	if e.NodeID != nil || e.Key() != "heartbeat.updated.information.host.example.teeth" {
		t.Errorf("heartbeat: %+v %s", e, e.Key())
	}
	if e := NewEvent("node", "sku.assigned", Information, node, node, at, nil); e.Key() != "node.sku.assigned.information."+node+"."+node {
		t.Error(e.Key())
	}
}

func TestCheck(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n-1) + `{}` + strings.Repeat(`}`, n-1) }
	for _, c := range []struct {
		contentType, body, want string
	}{
		{"application/json", `{}`, ""},
		{"text/json", ` {"a":[1,"]}{\"\\"]} `, ""},
		{"", `{}`, ""},
		{"application/json; charset=utf-8", `{}`, ""},
		{"application/json", deep(MaxDepth), ""},
		{"application/json", deep(MaxDepth + 1), "deeper"},
		{"application/json", strings.Repeat(`{"a":[`, MaxBody/8), "deeper"},
		{"application/octet-stream", `{}`, "content type"},
		{"application/json;;=", `{}`, "content type"},
		{"application/json", ``, "not a JSON object"},
		{"application/json", `[]`, "not a JSON object"},
		{"application/json", `"x"`, "not a JSON object"},
		{"application/json", `null`, "not a JSON object"},
		{"application/json", `{"a":1`, "not valid JSON"},
		{"application/json", `{}{}`, "not valid JSON"},
		{"application/json", "{\"a\":\"\xff\"}", "UTF-8"},
		{"application/json", `{"a":"` + strings.Repeat("x", MaxBody) + `"}`, "the most is"},
	} {
		err := Check(c.contentType, []byte(c.body))
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrInvalid)) {
			t.Errorf("Check(%q, %.40q) = %v, want %q", c.contentType, c.body, err, c.want)
		}
	}
	var r Result
	if err := Decode(ContentType, []byte(`{"value":{"a":1},"other":2}`), &r); err != nil || r.Value == nil {
		t.Errorf("%v %v", r, err)
	}
	var ip IPAddress
	if err := Decode(ContentType, []byte(`{"value":5}`), &ip); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "value") {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for value, ok := range map[string]bool{"10.1.2.3": true, "::1": false, "10.1.2": false, "": false, "10.1.2.3%eth0": false, "010.1.2.3": false} {
		if _, err := (IPAddress{value}).Addr(); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
	for value, ok := range map[string]bool{"02:00:00:00:00:0A": true, "02-00-00-00-00-0a": false, "02:00:00:00:00": false, "02:00:00:00:00:0g": false, "02:00:00:00:00:0a\n": false} {
		if err := (MACAddress{value}).Check(); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestNodeTasks(t *testing.T) {
	text := func(s string) *string { return &s }
	body := `{"identifier":"0f1e2d3c4b5a69788796a5b4","tasks":[
		{"cmd":"","stdout":"","error":null},
		{"cmd":"lshw -json","catalog":true,"source":"lshw","format":"json","stdout":"{}","stderr":""},
		{"cmd":"false","acceptedResponseCodes":[1],"error":{"code":1,"killed":false,"signal":null,"cmd":"/bin/sh -c false"}},
		{"cmd":"never"}],"exit":"2"}`
	got, err := ParseNodeTasks([]byte(body), MaxBody)
	if err != nil {
		t.Fatal(err)
	}
	two := Exit(2)
	want := NodeTasks{Identifier: "0f1e2d3c4b5a69788796a5b4", Exit: &two, Tasks: []NodeTask{
		{Stdout: text("")},
		{Cmd: "lshw -json", Catalog: true, Source: "lshw", Format: "json", Stdout: text("{}"), Stderr: text("")},
		{Cmd: "false", AcceptedResponseCodes: []int{1}, Error: &NodeError{Code: 1, Cmd: "/bin/sh -c false"}},
		{Cmd: "never"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if f := got.Failed(); f != nil {
		t.Errorf("%+v counts as failed, and its code is accepted", f)
	}
	for _, e := range []string{`{"code":2}`, `{"killed":true}`, `{"signal":"SIGKILL"}`, `"no network"`, `{"code":"ENOENT"}`} {
		failed, err := ParseNodeTasks([]byte(`{"tasks":[{"acceptedResponseCodes":[1],"error":`+e+`}]}`), MaxBody)
		if err != nil || failed.Failed() == nil {
			t.Errorf("error %s is none: %v", e, err)
		}
		again, err := json.Marshal(failed)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := ParseNodeTasks(again, MaxBody); err != nil || cmp.Diff(failed, same) != "" {
			t.Errorf("%s: %v\n%s", again, err, cmp.Diff(failed, same))
		}
	}
	for exit, want := range map[string]int{`"1"`: 1, `127`: 127, `{"code":2}`: 2, `{"code":"3"}`: 3, `0`: 0} {
		got, err := ParseNodeTasks([]byte(`{"exit":`+exit+`}`), MaxBody)
		if err != nil || got.Exit == nil || int(*got.Exit) != want {
			t.Errorf("exit %s: %v %v", exit, got.Exit, err)
		}
	}
	for _, bad := range []string{
		`{"exit":"x"}`, `{"exit":-1}`, `{"exit":256}`, `{"exit":{"code":{"code":1}}}`, `{"exit":{}}`, `{"tasks":{}}`, `[]`,
		`{"tasks":[` + strings.Repeat(`{},`, MaxNodeTasks) + `{}]}`, `{"tasks":[{"timeout":-1}]}`, `{"identifier":"` + strings.Repeat("x", 65) + `"}`,
	} {
		if _, err := ParseNodeTasks([]byte(bad), MaxBody); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}

func FuzzCheckBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[{"b":"\"}"}]}`, `[`, "{\"a\":\"\xff\"}", strings.Repeat(`{"a":`, 70)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var m map[string]any
		valid := json.Unmarshal(body, &m) == nil && m != nil
		if err := CheckBody(body, MaxBody); err == nil && !valid {
			t.Fatalf("%q is let through, and is no object", body)
		}
		if err := CheckBody(body, MaxBody); err == nil {
			if _, _, err := Encode(m); err != nil { // what comes in may go out
				t.Fatalf("%q cannot be encoded again: %v", body, err)
			}
		}
	})
}

func FuzzNodeTasks(f *testing.F) {
	f.Add([]byte(`{"identifier":"a","tasks":[{"cmd":"x","error":"y"}],"exit":{"code":"1"}}`))
	f.Add([]byte(`{"tasks":[{"error":{"code":"ENOENT","killed":true,"signal":"SIGKILL"}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ParseNodeTasks(body, 1<<16)
		if err != nil {
			return
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		same, err := ParseNodeTasks(again, MaxNodePost)
		if err != nil || cmp.Diff(got, same) != "" {
			t.Fatalf("%s: %v\n%s", again, err, cmp.Diff(got, same))
		}
	})
}
