package apt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeEtc(t *testing.T, files map[string]string) string {
	etc := t.TempDir()
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(etc, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return etc
}

func TestSources(t *testing.T) {
	etc := writeEtc(t, map[string]string{
		"os-release": "ID=debian\nVERSION_CODENAME=bookworm\n",
		"apt/sources.list": `# a comment
deb http://mirror.example/debian bookworm main contrib # trailing
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/security bookworm-security main
deb http://third.example/apt cloud-sdk-bookworm main
deb http://third.example/apt bookworm vendor
deb http://short.example/
`,
		"apt/sources.list.d/debian.sources": `# modern
Types: deb deb-src
URIs: http://other.example/debian
 http://spare.example/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off.example/debian
Suites: stable
Components: main
Enabled: no

Types: deb
URIs: http://node.example
Suites: nodistro
Components: main
`,
		"apt/sources.list.d/old.list.disabled": "deb http://disabled.example bookworm main\n",
	})
	s, err := readSources(etc)
	if err != nil {
		t.Fatal(err)
	}
	oneline, deb822 := s.render([]string{"non-free-firmware"})
	wantLines := `deb http://mirror.example/debian bookworm main contrib non-free-firmware
deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/security bookworm-security main non-free-firmware
`
	want822 := `Types: deb
URIs: http://other.example/debian
 http://spare.example/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Signed-By: 
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

`
	if oneline != wantLines {
		t.Errorf("sources.list:\n%swant:\n%s", oneline, wantLines)
	}
	if deb822 != want822 {
		t.Errorf("teeth.sources:\n%swant:\n%s", deb822, want822)
	}
}

func TestSourcesElsewhere(t *testing.T) {
	etc := writeEtc(t, map[string]string{
		"os-release":       "ID=ubuntu\nVERSION_CODENAME=\"noble\"\n",
		"apt/sources.list": "deb http://third.example/apt nodistro main\n",
	})
	_, err := readSources(etc)
	if err == nil || !strings.Contains(err.Error(), "noble") {
		t.Errorf("readSources: %v, want an error that names the suites looked for", err)
	}
}

func TestParseStanza(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	p, err := parseStanza("Package: linux-image-amd64\nVersion: 6.1.192-2\nArchitecture: amd64\nPre-Depends: dpkg (>= 1)\n" +
		"Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), a | b, c:any\nDescription: x\n Version: not this\nSize: 1480\nSHA256: " + sum + "\n\nPackage: second\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Package{Name: "linux-image-amd64", Version: "6.1.192-2", Arch: "amd64", Size: 1480, SHA256: sum}
	if got := strings.Join(p.Depends, " "); got != "dpkg linux-image-6.1.0-56-amd64 a c" {
		t.Errorf("Depends = %q", got)
	}
	p.Depends = nil
	if p.Name != want.Name || p.Version != want.Version || p.Arch != want.Arch || p.Size != want.Size || p.SHA256 != want.SHA256 {
		t.Errorf("parseStanza = %+v, want %+v", p, want)
	}
	for _, bad := range []string{"", "Package: x\nVersion: 1\n", "Package: x\nVersion: 1\nSHA256: abcd\n", "Package: x\nSize: -1\n"} {
		if p, err := parseStanza(bad); err == nil {
			t.Errorf("parseStanza(%q) = %+v, want an error", bad, p)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add("deb [ a=b ] http://x bookworm main\n", "Types: deb\nURIs: x\nSuites: stable\nComponents: main\n")
	f.Add("deb [", " continued\n\n:\n")
	f.Fuzz(func(t *testing.T, list, deb822 string) {
		var s sources
		s.addLines(list, rolling)
		s.addStanzas(deb822, rolling)
		oneline, stanzas := s.render([]string{"extra"})
		// What was rendered is read back the same.
		var again sources
		again.addLines(oneline, rolling)
		again.addStanzas(stanzas, rolling)
		if o, d := again.render([]string{"extra"}); o != oneline || d != stanzas {
			t.Errorf("rendered again:\n%q\n%q\nfirst:\n%q\n%q", o, d, oneline, stanzas)
		}
	})
}

func FuzzParseStanza(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nSHA256: " + strings.Repeat("00", 32) + "\nDepends: a (= 1) | b, c:any [x]\n")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseStanza(s)
		if err == nil && (p.Name == "" || p.Version == "" || len(p.SHA256) != 64) {
			t.Errorf("parseStanza took %+v", p)
		}
	})
}
