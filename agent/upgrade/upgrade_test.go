package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
)

// publisher is a version URL and the files it names.
type publisher struct {
	*httptest.Server
	release Release
	files   map[string][]byte
	public  minisign.PublicKey
	private minisign.PrivateKey
}

func publish(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{files: map[string][]byte{}}
	var err error
	if p.public, p.private, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/minion", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("arch") != runtime.GOARCH {
			http.Error(w, "arch?", http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(p.release)
	})
	mux.HandleFunc("GET /files/{name}", func(w http.ResponseWriter, r *http.Request) {
		b, ok := p.files[r.PathValue("name")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
	mux.HandleFunc("GET /boot/ipxe", func(w http.ResponseWriter, r *http.Request) {
		w.Write(p.files["ipxe?"+r.URL.Query().Get("mac")])
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) key(t *testing.T) Key {
	t.Helper()
	k, err := ParseKey(p.public.String())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// add offers a file as a version, signed with that comment.
func (p *publisher) add(version, name string, file []byte, comment string) {
	p.files[name] = file
	sum := sha256.Sum256(file)
	h := minisign.NewReader(bytes.NewReader(file))
	if _, err := new(bytes.Buffer).ReadFrom(h); err != nil {
		panic(err)
	}
	p.release = Release{
		Version: version, URL: "/files/" + name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(file)),
		Signature: string(h.SignWithComments(p.private, comment, "a test")),
	}
}

// script is a program that tests itself by writing what it was called with, and ends
// with that code.
func script(code int) []byte {
	return fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >\"$3.tested\"\necho said something >&2\nexit %d\n", code)
}

// installed is a host with version 1.0.0 of an agent.
func installed(t *testing.T, p *publisher) *Upgrader {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "versions"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "versions/teeth-agent-1.0.0"), script(0), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../versions/teeth-agent-1.0.0", filepath.Join(root, "bin/teeth-agent")); err != nil {
		t.Fatal(err)
	}
	return &Upgrader{URL: p.URL + "/api/v1/minion", Key: p.key(t), Version: "teeth-agent/v1.0.0", Root: root, Config: filepath.Join(root, "config.yml"), Log: slog.New(slog.DiscardHandler)}
}

func (u *Upgrader) leadsTo(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink(u.Link())
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(s)
}

func TestUpgrade(t *testing.T) {
	p := publish(t)
	u := installed(t, p)
	p.add("1.2.0", "new", script(0), Comment("1.2.0", Agent, runtime.GOARCH))
	r, err := u.Upgrade(t.Context(), false)
	if err != nil || r.Version != "1.2.0" {
		t.Fatal(r, err)
	}
	if got := u.leadsTo(t); got != "teeth-agent-1.2.0" {
		t.Error(got)
	}
	if b, err := os.ReadFile(u.Config + ".tested"); err != nil || string(b) != "-t --config "+u.Config+"\n" {
		t.Errorf("self-test: %q, %v", b, err)
	}
	trial, err := u.trial()
	if err != nil || trial.Version != "1.2.0" || filepath.Base(trial.Before) != "teeth-agent-1.0.0" || trial.Starts != 0 {
		t.Errorf("%+v, %v", trial, err)
	}
}

// Whatever is wrong, the old version stays, and is what is started.
func TestRefused(t *testing.T) {
	_, stranger, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := Comment("1.2.0", Agent, runtime.GOARCH)
	for _, tt := range []struct {
		name  string
		make  func(p *publisher)
		force bool
		want  string
	}{
		{"not newer", func(p *publisher) { p.add("1.0.0", "n", script(0), Comment("1.0.0", Agent, "")) }, false, "not newer"},
		{"older", func(p *publisher) { p.add("0.9.0", "n", script(0), Comment("0.9.0", Agent, "")) }, false, "not newer"},
		{"pre-release of the same", func(p *publisher) { p.add("1.0.0-rc.1", "n", script(0), Comment("1.0.0-rc.1", Agent, "")) }, false, "not newer"},
		{"old file as a new version", func(p *publisher) { p.add("1.2.0", "n", script(0), "version:1.0.0") }, true, "signature is of version"},
		{"comment without a version", func(p *publisher) { p.add("1.2.0", "n", script(0), "timestamp:1") }, true, "does not say"},
		{"of another kind", func(p *publisher) { p.add("1.2.0", "n", script(0), Comment("1.2.0", Image, runtime.GOARCH)) }, true, "kind"},
		{"of another machine", func(p *publisher) { p.add("1.2.0", "n", script(0), Comment("1.2.0", Agent, "pdp11")) }, true, "pdp11"},
		{"not signed", func(p *publisher) { p.add("1.2.0", "n", script(0), good); p.release.Signature = "" }, true, "not signed"},
		{"no signature", func(p *publisher) { p.add("1.2.0", "n", script(0), good); p.release.Signature = "yes" }, true, "signature"},
		{"signed by another", func(p *publisher) { p.private = stranger; p.add("1.2.0", "n", script(0), good) }, true, "key"},
		{"comment changed", func(p *publisher) {
			p.add("1.2.0", "n", script(0), "version:1.1.0")
			p.release.Signature = strings.Replace(p.release.Signature, "version:1.1.0", "version:1.2.0", 1)
		}, true, "signature is not that"},
		{"file changed with its digest", func(p *publisher) {
			p.add("1.2.0", "n", script(0), good)
			s := p.release.Signature
			p.add("1.2.0", "n", append(script(0), '\n'), good)
			p.release.Signature = s
		}, true, "signature is not that"},
		{"file changed", func(p *publisher) {
			p.add("1.2.0", "n", script(0), good)
			p.files["n"] = bytes.ToUpper(p.files["n"])
		}, true, "sha256"},
		{"file longer", func(p *publisher) {
			p.add("1.2.0", "n", script(0), good)
			p.files["n"] = append(p.files["n"], 0)
		}, true, ""},
		{"no digest", func(p *publisher) { p.add("1.2.0", "n", script(0), good); p.release.SHA256 = "" }, true, "sha256"},
		{"no file", func(p *publisher) { p.add("1.2.0", "n", script(0), good); clear(p.files) }, true, ""},
		{"huge", func(p *publisher) { p.add("1.2.0", "n", script(0), good); p.release.Size = 1 << 40 }, true, "size"},
		{"version that is a path", func(p *publisher) { p.add("../../x", "n", script(0), "version:../../x") }, true, "latest_version"},
		{"fails its self-test", func(p *publisher) { p.add("1.2.0", "n", script(1), good) }, true, "self-test failed: exit status 1: said something"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := publish(t)
			u := installed(t, p)
			tt.make(p)
			_, err := u.Upgrade(t.Context(), tt.force)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if errors.Is(err, ErrNotNewer) == tt.force {
				t.Errorf("%v", err)
			}
			if got := u.leadsTo(t); got != "teeth-agent-1.0.0" {
				t.Errorf("it leads to %s", got)
			}
			if all, err := os.ReadDir(u.versions()); err != nil || len(all) != 1 {
				t.Errorf("left over: %v, %v", all, err)
			}
		})
	}
}

func TestDowngradeByForce(t *testing.T) {
	p := publish(t)
	u := installed(t, p)
	p.add("0.9.0", "n", script(0), Comment("0.9.0", Agent, ""))
	if _, err := u.Upgrade(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := u.leadsTo(t); got != "teeth-agent-0.9.0" {
		t.Error(got)
	}
}

func TestNewer(t *testing.T) {
	for _, tt := range []struct {
		release, runs string
		newer         bool
	}{
		{"1.2.3", "1.2.2", true}, {"v1.10.0", "teeth-agent/1.9.9", true}, {"1.2.3", "1.2.3", false}, {"1.2.3", "v1.3", false},
		{"0.0.1", "devel", true}, {"0.0.1", "a91d423-dirty", true}, {"1.2.3", "1.2.3-4-gabcdef", true}, {"1.2.3-rc.1", "1.2.3", false},
	} {
		if err := (Release{Version: tt.release}).Newer(tt.runs); (err == nil) != tt.newer {
			t.Errorf("%s than %s: %v", tt.release, tt.runs, err)
		}
	}
}

// A new version that runs is kept when it connects, and left when it does not in time
// or is started again and again.
func TestTrial(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(t *testing.T) *Upgrader {
		u := installed(t, publish(t))
		path := filepath.Join(u.versions(), "teeth-agent-1.2.0")
		if err := os.Link(self, path); err != nil { // this very program, as far as the file system knows
			if err := os.Symlink(self, path); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.switchTo(path, "1.2.0"); err != nil {
			t.Fatal(err)
		}
		return u
	}
	t.Run("connects", func(t *testing.T) {
		u := begin(t)
		left, back, err := u.Begin()
		if err != nil || back || left < TrialTime-time.Minute || left > TrialTime {
			t.Fatal(left, back, err)
		}
		connected := make(chan struct{})
		close(connected)
		if back, err := u.Watch(t.Context(), left, connected); back || err != nil {
			t.Error(back, err)
		}
		if left, back, err := u.Begin(); left != 0 || back || err != nil || filepath.Base(u.leadsTo(t)) != "teeth-agent-1.2.0" {
			t.Error("still on trial", left, back, err)
		}
	})
	t.Run("does not connect", func(t *testing.T) {
		u := begin(t)
		if back, err := u.Watch(t.Context(), time.Millisecond, nil); !back || err != nil {
			t.Error(back, err)
		}
		if got := u.leadsTo(t); got != "teeth-agent-1.0.0" {
			t.Error(got)
		}
	})
	t.Run("ends", func(t *testing.T) {
		u := begin(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if back, err := u.Watch(ctx, time.Hour, nil); back || err != nil {
			t.Error(back, err)
		}
		if trial, err := u.trial(); err != nil || trial.Version == "" {
			t.Error("the trial is over", err)
		}
	})
	t.Run("crashes", func(t *testing.T) {
		u := begin(t)
		for i := range TrialStarts {
			if _, back, err := u.Begin(); back || err != nil {
				t.Fatal(i, back, err)
			}
		}
		if _, back, err := u.Begin(); !back || err != nil || u.leadsTo(t) != "teeth-agent-1.0.0" {
			t.Error(back, err)
		}
	})
	t.Run("starts long after the switch", func(t *testing.T) { // -u, and a restart the day after
		u := begin(t)
		trial, err := u.trial()
		if err != nil || !trial.Until.IsZero() {
			t.Fatal("the time runs before anything has started", trial.Until, err)
		}
		if left, back, err := u.Begin(); back || err != nil || left < TrialTime-time.Minute {
			t.Fatal(left, back, err)
		}
		if trial, err = u.trial(); err != nil {
			t.Fatal(err)
		}
		trial.Until = time.Now().Add(-time.Second)
		if err := u.write(trial); err != nil {
			t.Fatal(err)
		}
		if _, back, err := u.Begin(); !back || err != nil || u.leadsTo(t) != "teeth-agent-1.0.0" {
			t.Error(back, err)
		}
	})
	t.Run("replaced on trial", func(t *testing.T) { // what has not connected is nothing to go back to
		u := begin(t)
		path := filepath.Join(u.versions(), "teeth-agent-1.3.0")
		if err := os.WriteFile(path, script(0), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := u.switchTo(path, "1.3.0"); err != nil {
			t.Fatal(err)
		}
		if err := u.Back("a test"); err != nil || u.leadsTo(t) != "teeth-agent-1.0.0" {
			t.Error(u.leadsTo(t), err)
		}
	})
	t.Run("not switched after all", func(t *testing.T) {
		u := begin(t)
		trial, err := u.trial()
		if err != nil {
			t.Fatal(err)
		}
		trial.Program = trial.Before
		if err := u.write(trial); err != nil {
			t.Fatal(err)
		}
		if left, back, err := u.Begin(); left != 0 || back || err != nil {
			t.Error(left, back, err)
		}
	})
	t.Run("file makes no sense", func(t *testing.T) {
		u := begin(t)
		if err := os.WriteFile(u.trialFile(), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, back, err := u.Begin(); back || err == nil {
			t.Error(back, err)
		}
		if _, _, err := u.Begin(); err != nil {
			t.Error("it stays", err)
		}
	})
}

// What was put in place by hand is kept, to go back to.
func TestPlainFileBecomesVersion(t *testing.T) {
	p := publish(t)
	u := installed(t, p)
	if err := os.Remove(u.Link()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.Link(), []byte("by hand"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.add("1.2.0", "new", script(0), "version:1.2.0")
	if _, err := u.Upgrade(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := u.Back("a test"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(u.Link()); err != nil || string(b) != "by hand" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOldVersionsAreRemoved(t *testing.T) {
	p := publish(t)
	u := installed(t, p)
	for i := 1; i <= 6; i++ {
		v := fmt.Sprintf("1.%d.0", i)
		p.add(v, "new", script(0), "version:"+v)
		if _, err := u.Upgrade(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		u.Version = v
		path, _ := filepath.EvalSymlinks(u.Link())
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(u.versions(), "teeth-agent-*"))
	if err != nil || len(left) > keep+2 || len(left) < 2 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestFindRoot(t *testing.T) {
	for path, want := range map[string]string{
		"/opt/teeth/bin/teeth-agent": "/opt/teeth", "/opt/minion/versions/teeth-agent-1.2": "/opt/minion",
		"/usr/bin/teeth-agent": "", "/usr/local/bin/teeth-agent": "", "/bin/teeth-agent": "", "/home/x/teeth-agent": "",
	} {
		if got, err := FindRoot(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
