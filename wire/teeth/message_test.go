package teeth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

func TestParseViolations(t *testing.T) {
	tests := []struct{ name, line, fatal string }{
		{"empty", ``, FatalDecode},
		{"no JSON", `hello`, FatalDecode},
		{"cut", `{"id": 1`, FatalDecode},
		{"two values", `{} {}`, FatalDecode},
		{"not a number to JSON", `{"id": NaN}`, FatalDecode},
		{"not UTF-8", "{\"id\": \"\xff\"}", FatalDecode},
		{"control character", "{\"id\": \"\x01\"}", FatalDecode},
		{"too deep", `{"id":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`, FatalDecode},
		{"deep garbage", strings.Repeat(`{"a":[`, 100000), FatalDecode},
		{"array", `[{"id": 1}]`, FatalMalformed},
		{"number", `7`, FatalMalformed},
		{"string", `"ping"`, FatalMalformed},
		{"null", `null`, FatalMalformed},
		{"no version", `{"id":1,"method":"ping","params":{}}`, FatalNoVersion},
		{"empty version", `{"id":1,"version":"","method":"ping","params":{}}`, FatalNoVersion},
		{"null version", `{"id":1,"version":null,"method":"ping","params":{}}`, FatalNoVersion},
		{"version before id", `{}`, FatalNoVersion},
		{"keys are exact", `{"id":1,"Version":"v1","method":"ping","params":{}}`, FatalNoVersion},
		{"no id", `{"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id 0", `{"id":0,"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id -0.0", `{"id":-0.0e9,"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id false", `{"id":false,"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id empty string", `{"id":"","version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id empty list", `{"id":[ ],"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"id empty object", `{"id":{},"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"last of two ids counts", `{"id":1,"id":0,"version":"v1","method":"ping","params":{}}`, FatalNoID},
		{"no params", `{"id":1,"version":"v1","method":"ping"}`, FatalNoParams},
		{"no params before unknown version", `{"id":1,"version":"v2","method":"ping"}`, FatalNoParams},
		{"params null", `{"id":1,"version":"v1","method":"ping","params":null}`, FatalParamsType},
		{"params list", `{"id":1,"version":"v1","method":"ping","params":[]}`, FatalParamsType},
		{"unknown version", `{"id":1,"version":"v2","method":"ping","params":{}}`, FatalVersion},
		{"version 1", `{"id":1,"version":1,"method":"ping","params":{}}`, FatalVersion},
		{"method 5", `{"id":1,"version":"v1","method":5,"params":{}}`, FatalUnknownMethod},
		{"method null", `{"id":1,"version":"v1","method":null,"params":{}}`, FatalUnknownMethod},
		{"method before result", `{"id":1,"version":"v1","method":"ping","result":{}}`, FatalNoParams},
		{"nothing", `{"id":1,"version":"v1"}`, FatalMalformed},
		{"params only", `{"id":1,"version":"v1","params":{}}`, FatalMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.line))
			var v *ViolationError
			if !errors.As(err, &v) || v.Fatal != tt.fatal {
				t.Fatalf("got %+v, %v, want %q", m, err, tt.fatal)
			}
		})
	}
}

func TestParse(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"command", `{"id":7,"version":"v1","method":"ping","params":{"a":1}}`, `{"id": 7, "version": "v1", "method": "ping", "params": {"a": 1}}`},
		{"CR LF and spaces", " \t{\"id\":7,\"version\":\"v1\",\"method\":\"ping\",\"params\":{}} \r\n", `{"id": 7, "version": "v1", "method": "ping", "params": {}}`},
		{"any true id", `{"id":{"a":[ 1.0,"\u00e9\/"]},"version":"v1","result":1e2}`, `{"id": {"a": [1.0, "\u00e9/"]}, "version": "v1", "result": 1e2}`},
		{"huge id", `{"id":1e999,"version":"v1","result":0}`, `{"id": 1e999, "version": "v1", "result": 0}`},
		{"half a surrogate pair", `{"id":"\uD800x","version":"v1","result":0}`, `{"id": "\ud800x", "version": "v1", "result": 0}`},
		{"unknown keys", `{"id":true,"version":"v1","result":null,"extra":[]}`, `{"id": true, "version": "v1", "result": null}`},
		{"reply of another version", `{"id":true,"version":"v2","result":null}`, `{"id": true, "version": "v2", "result": null}`},
		{"command before result", `{"result":1,"id":1,"version":"v1","method":"m","params":{}}`, `{"id": 1, "version": "v1", "method": "m", "params": {}}`},
		{"error before result", `{"result":1,"id":1,"version":"v1","error":"no"}`, `{"id": 1, "version": "v1", "error": {"msg": "no"}}`},
		{"error object", `{"id":1,"version":"v1","error":{"msg":"no","z":1,"a":null}}`, `{"id": 1, "version": "v1", "error": {"msg": "no", "a": null, "z": 1}}`},
		{"error null", `{"id":1,"version":"v1","error":null}`, `{"id": 1, "version": "v1", "error": {"msg": ""}}`},
		{"error list", `{"id":1,"version":"v1","error":["no"]}`, `{"id": 1, "version": "v1", "error": {"msg": "[\"no\"]"}}`},
		{"error msg is no string", `{"id":1,"version":"v1","error":{"msg":5}}`, `{"id": 1, "version": "v1", "error": {"msg": "5"}}`},
		{"fatal needs neither id nor version", `{"fatal_error":"x"}`, `{"fatal_error": "x"}`},
		{"fatal of another type", `{"fatal_error":{"a":1}}`, `{"fatal_error": "{\"a\":1}"}`},
		{"fatal before all", `{"fatal_error":"x","id":1,"version":"v1","method":"m","params":{}}`, `{"fatal_error": "x"}`},
		{"deep enough", `{"id":` + strings.Repeat("[", MaxDepth-2) + `"["` + strings.Repeat("]", MaxDepth-2) + `,"version":"v1","result":1}`,
			`{"id": ` + strings.Repeat("[", MaxDepth-2) + `"["` + strings.Repeat("]", MaxDepth-2) + `, "version": "v1", "result": 1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.line))
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Append([]byte("x"))
			if err != nil || string(got) != "x"+tt.want+"\n" {
				t.Errorf("got %s%v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	id := json.RawMessage("1")
	long := json.RawMessage(`"` + strings.Repeat("\x7f", MaxLine/6) + `"`) // six times as long when escaped
	tests := map[string]Message{
		"no kind":        {ID: id, Version: "v1"},
		"no id":          {Kind: KindResult, Version: "v1", Result: id},
		"false id":       {Kind: KindResult, ID: json.RawMessage("0"), Version: "v1", Result: id},
		"broken id":      {Kind: KindResult, ID: json.RawMessage("{"), Version: "v1", Result: id},
		"open string id": {Kind: KindResult, ID: json.RawMessage(`"abc`), Version: "v1", Result: id},
		"no version":     {Kind: KindResult, ID: id, Result: id},
		"no method":      {Kind: KindCommand, ID: id, Version: "v1", Params: json.RawMessage("{}")},
		"no params":      {Kind: KindCommand, ID: id, Version: "v1", Method: "m"},
		"params null":    {Kind: KindCommand, ID: id, Version: "v1", Method: "m", Params: json.RawMessage("null")},
		"broken params":  {Kind: KindCommand, ID: id, Version: "v1", Method: "m", Params: json.RawMessage("{,}")},
		"no result":      {Kind: KindResult, ID: id, Version: "v1"},
		"line feed":      {Kind: KindResult, ID: id, Version: "v1", Result: json.RawMessage("\"\n\"")},
		"not UTF-8":      {Kind: KindResult, ID: id, Version: "v1", Result: json.RawMessage("\"\xff\"")},
		"no error":       {Kind: KindError, ID: id, Version: "v1"},
		"broken error":   {Kind: KindError, ID: id, Version: "v1", Err: &MethodError{Extra: map[string]json.RawMessage{"x": nil}}},
		"too deep":       {Kind: KindResult, ID: id, Version: "v1", Result: json.RawMessage(strings.Repeat("[", 64) + strings.Repeat("]", 64))},
		"too long":       {Kind: KindResult, ID: id, Version: "v1", Result: long},
	}
	for name, m := range tests {
		if got, err := m.Append([]byte("x")); err == nil || string(got) != "x" {
			t.Errorf("%s: %s, %v", name, got, err)
		} else if (name == "too long") != errors.Is(err, ErrLineTooLong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewCommand("i", "m", func() {}); err == nil {
		t.Error("params that are no JSON")
	}
}

func TestNewError(t *testing.T) {
	extra := map[string]json.RawMessage{"code": json.RawMessage("5")}
	m := NewError(json.RawMessage("1"), fmt.Errorf("disk: %w", &MethodError{Msg: "busy", Extra: extra}))
	b, err := m.Append(nil)
	if want := `{"id": 1, "version": "v1", "error": {"msg": "disk: busy", "code": 5}}` + "\n"; string(b) != want || err != nil {
		t.Errorf("%s%v, want %s", b, err, want)
	}
}

func TestNewID(t *testing.T) {
	re := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	a, b := NewID(), NewID()
	if !re.MatchString(a) || a == b {
		t.Errorf("%s, %s", a, b)
	}
}

func TestSpelling(t *testing.T) {
	for canonical, legacy := range map[string]string{
		"standbye.run_image": "standby.run_image",
		"decom.qc":           "decom.qc",
		"standbyefoo":        "standbyefoo",
		"ping":               "ping",
	} {
		if got := Legacy(canonical); got != legacy {
			t.Errorf("Legacy(%s) = %s", canonical, got)
		}
		if got := Canonical(legacy); got != canonical {
			t.Errorf("Canonical(%s) = %s", legacy, got)
		}
	}
}

func TestDecodeParams(t *testing.T) {
	const method = "standby.cache_images"
	tests := []struct{ params, want string }{
		{`{"task_id":"t","image_ids":["a"],"later":1}`, ""},
		{`{"image_ids":["a"]}`, `missing parameter "task_id" in "standby.cache_images" command`},
		{`{"task_id":null,"image_ids":["a"]}`, `missing parameter "task_id" in "standby.cache_images" command`},
		{`{"task_id":"t","image_ids":"a"}`, `"image_ids" must be a list`},
		{`{"task_id":5,"image_ids":[]}`, `parameter "task_id" in "standby.cache_images" command: a JSON number cannot be a string`},
	}
	for _, tt := range tests {
		var p CacheImagesParams
		err := DecodeParams(method, json.RawMessage(tt.params), &p, "task_id", "image_ids")
		if tt.want == "" {
			if err != nil || p.TaskID != "t" || len(p.ImageIDs) != 1 {
				t.Errorf("%s: %+v, %v", tt.params, p, err)
			}
			continue
		}
		var me *MethodError
		if !errors.As(err, &me) || me.Msg != tt.want {
			t.Errorf("%s: %v, want %s", tt.params, err, tt.want)
		}
	}
}

func TestTaskStatusCheck(t *testing.T) {
	good := TaskStatus{TaskID: "t", State: Running, Percent: ptr(100.0), ETA: ptr(0.0)}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []TaskStatus{
		{State: Running},
		{TaskID: "t"},
		{TaskID: "t", State: "starting"},
		{TaskID: "t", State: Running, Percent: ptr(100.1)},
		{TaskID: "t", State: Running, ETA: ptr(-1.0)},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}

// FuzzMalleability: what Parse accepts is encoded to a line that parses to the
// same message, and encoding that again changes nothing.
func FuzzMalleability(f *testing.F) {
	for _, s := range []string{
		`{"id":7,"version":"v1","method":"ping","params":{"a":[1,{"b":"\u00e9\/ü"}]}}`,
		`{"id":"x","version":"v1","error":{"msg":"no","code":1}}`,
		`{"id":[1],"version":"v2","error":"no"}`,
		`{"id":true,"version":"v1","result":null}`,
		`{"fatal_error":"\ud83d\udca5\ud800"}`,
		`{"id":1,"id":2,"version":"v1","result":{"k":1,"k":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := Parse(line)
		var v *ViolationError
		if err != nil {
			if !errors.As(err, &v) || v.Fatal == "" {
				t.Fatalf("error without a fatal text: %v", err)
			}
			return
		}
		first, err := m.Append(nil)
		if errors.Is(err, ErrLineTooLong) {
			return
		}
		if err != nil {
			t.Fatalf("accepted, but cannot be encoded: %v", err)
		}
		for _, c := range first[:len(first)-1] {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, first)
			}
		}
		m2, err := Parse(first)
		if err != nil {
			t.Fatalf("own line refused: %v\n%s", err, first)
		}
		if m2.Kind != m.Kind || m2.Method != m.Method || m2.Fatal != m.Fatal || m2.Version != m.Version {
			t.Fatalf("%+v became %+v", m, m2)
		}
		second, err := m2.Append(nil)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s (%v)", first, second, err)
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add([]byte(`{"foo":"bar","message":"hello","time":1795253238.63}`))
	f.Add([]byte(`{"message":[1],"time":"x","n":1e400}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l, l2 Log
		if json.Unmarshal(b, &l) != nil {
			return
		}
		first, err := json.Marshal(l)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if err := json.Unmarshal(first, &l2); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := json.Marshal(l2); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s (%v)", first, second, err)
		}
	})
}
