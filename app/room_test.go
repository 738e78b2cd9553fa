package app

import (
	"strings"
	"testing"
)

func TestRoom(t *testing.T) {
	if n, err := room(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := room("/nowhere"); err == nil {
		t.Error("a directory that is not there has room")
	}
	if n := memoryTotal(); n < 1<<20 {
		t.Errorf("%d bytes of memory", n)
	}
	const text = "MemTotal:        2048 kB\nMemAvailable:      12 kB\nBad: x\n"
	for key, want := range map[string]int64{"MemTotal:": 2 << 20, "MemAvailable:": 12 << 10, "Bad:": 0, "None:": 0} {
		if n := meminfo(text, key); n != want {
			t.Errorf("%s %d", key, n)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Spec{Name: "a", Version: "1", URL: "http://x/y", Digest: "SHA512:" + strings.Repeat("aB", 64)}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Spec){
		"app name":                 func(s *Spec) { s.Name = ".hidden" },
		"version of 0 bytes":       func(s *Spec) { s.Version = "" },
		"size is -1":               func(s *Spec) { s.Size = -1 },
		"not one of http or https": func(s *Spec) { s.URL = "file:///etc/passwd" },
		"want sha256: and 64":      func(s *Spec) { s.Digest = "md5:" + strings.Repeat("0", 32) },
		"want a JSON object":       func(s *Spec) { s.Config = []byte("null") },
		"limit of memory":          func(s *Spec) { s.Limits.Memory = -5 },
		"manifest":                 func(s *Spec) { s.Manifest = []byte(`{"x":1}`) },
		"at most":                  func(s *Spec) { s.Config = []byte(`{"a":"` + strings.Repeat("x", maxConfig) + `"}`) },
	} {
		s := good
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	secret := Spec{Name: "a", Version: "1", URL: "ftp://user:password@x/y"}
	if err := secret.Validate(); err == nil || strings.Contains(err.Error(), "password") {
		t.Error(err)
	}
}
