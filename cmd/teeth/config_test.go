package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func configFlags() (*pflag.FlagSet, *string, *[]string, *bool, *int64) {
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.String("config", "", "")
	return f, f.String("data", "/default", ""), f.StringSlice("name", nil, ""), f.Bool("insecure", false, ""), f.Int64("max-image-size", 0, "")
}

func TestConfiguration(t *testing.T) {
	f, data, names, insecure, size := configFlags()
	if err := f.Parse([]string{"--data", "/typed"}); err != nil {
		t.Fatal(err)
	}
	err := setFlags(f, []byte("# comment\ndata: /file\nname: [a.example, 192.0.2.1]\ninsecure: true\nmax-image-size: 5\n"))
	if err != nil || *data != "/typed" || !slices.Equal(*names, []string{"a.example", "192.0.2.1"}) || !*insecure || *size != 5 || !f.Changed("name") {
		t.Errorf("%q %q %v %d, %v", *data, *names, *insecure, *size, err)
	}
	for text, says := range map[string]string{
		"dtaa: /x":                    `line 1: "dtaa" is no setting`,
		"data: /x\ndata: /y":          "twice",
		"config: /x":                  "is no setting",
		"data:":                       "want a value",
		"data: [a, b]":                "not a list",
		"data: {a: b}":                "want a value",
		"- data":                      "NAME: VALUE",
		"data: \"":                    "yaml",
		"a: x\n\n\nmax-image-size: 1": `line 1: "a"`,
		"\nmax-image-size: big":       `line 2: max-image-size: "big"`,
		"insecure: perhaps":           "perhaps",
		"name: [[a]]":                 "want a value",
	} {
		f, _, _, _, _ := configFlags()
		if err := setFlags(f, []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "null"} {
		f, _, _, _, _ := configFlags()
		if err := setFlags(f, []byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzConfiguration(f *testing.F) {
	for _, text := range []string{"data: /x", "name: [a, b]", "a: &x b\ndata: *x", "data: &x [*x]", "<<: {data: x}", "? [a]\n: b"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		flags, _, _, _, _ := configFlags()
		setFlags(flags, b)
	})
}

// Every flag of teeth serve can be in the file.
func TestServeWithConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "teeth.yaml")
	if err := os.WriteFile(path, []byte("agents: nonsense:address:1\ndata: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := teethCommand(t, "serve", "--config", path); code != 1 || !strings.Contains(errs, "nonsense") {
		t.Errorf("%d %s", code, errs)
	}
	if err := os.WriteFile(path, []byte("agent: :1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := teethCommand(t, "serve", "--config", path); code != 2 || !strings.Contains(errs, `"agent" is no setting`) {
		t.Errorf("%d %s", code, errs)
	}
	if _, errs, code := teethCommand(t, "serve", "--config", filepath.Join(dir, "absent")); code != 2 || !strings.Contains(errs, "absent") {
		t.Errorf("%d %s", code, errs)
	}
}
