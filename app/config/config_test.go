package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/app/manifest"
)

const input = `{"top":"x","main":{"port":80,"on":true,"name":"a \"b\" $c","list":[1,"two",null],"deep":{"x":1},"none":null},"also":{},"n":1.5}`

func TestRender(t *testing.T) {
	for format, want := range map[manifest.Format]string{
		manifest.INI: "n = 1.5\ntop = x\n\n[also]\n\n[main]\ndeep = {\"x\":1}\nlist = [1,\"two\",null]\nname = a \"b\" $c\nnone = null\non = true\nport = 80\n",
		manifest.Env: "n=\"1.5\"\ntop=\"x\"\nmain_deep=\"{\\\"x\\\":1}\"\nmain_list=\"[1,\\\"two\\\",null]\"\nmain_name=\"a \\\"b\\\" \\$c\"\nmain_none=\"null\"\nmain_on=\"true\"\nmain_port=\"80\"\n",
	} {
		b, err := Render(format, json.RawMessage(input))
		if err != nil || string(b) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", format, err, b, want)
		}
	}
	b, err := Render(manifest.JSON, json.RawMessage(input))
	var compact strings.Builder
	if err != nil || json.NewEncoder(&compact).Encode(json.RawMessage(b)) != nil || strings.TrimSpace(compact.String()) != input {
		t.Errorf("%v: %s", err, b)
	}
}

// What would change the meaning of a file is refused.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		format manifest.Format
		config string
	}{
		{manifest.INI, `{"a":{"b":"x\n[root]\nadmin = 1"}}`},
		{manifest.INI, `{"a]":{"b":"x"}}`},
		{manifest.INI, `{"":{"b":"x"}}`},
		{manifest.INI, `{"a":{"b=c":"x"}}`},
		{manifest.INI, `{"a":{"#b":"x"}}`},
		{manifest.INI, `{"a":{"":"x"}}`},
		{manifest.INI, `{"a":{" b":"x"}}`},
		{manifest.Env, `{"a":"x\nLD_PRELOAD=y"}`},
		{manifest.Env, `{"a-b":"x"}`},
		{manifest.Env, `{"a":{"b c":"x"}}`},
		{manifest.JSON, `[1]`},
		{"xml", `{}`},
	} {
		if b, err := Render(c.format, json.RawMessage(c.config)); err == nil {
			t.Errorf("%s of %s: %s", c.format, c.config, b)
		}
	}
}

// What is written as variables is read as them.
func FuzzEnv(f *testing.F) {
	f.Add("A", `x "y" \ $z `+"`")
	f.Fuzz(func(t *testing.T, key, value string) {
		in, err := json.Marshal(map[string]string{key: value})
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(in, &back); err != nil || len(back) != 1 {
			t.Fatalf("%s is read as %v: %v", in, back, err)
		}
		b, err := Render(manifest.Env, in)
		if err != nil {
			return
		}
		env, err := manifest.ParseEnv(b)
		if err != nil {
			if len(b) > manifest.MaxSize || len(key) > 256 {
				return
			}
			t.Fatalf("%v: %q", err, b)
		}
		for k, v := range back {
			if env[k] != v {
				t.Errorf("%q became %q", v, env[k])
			}
		}
	})
}
