package pki

import (
	"crypto/tls"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir, []string{"localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake returns the client's error.
func handshake(t *testing.T, a *Authority, client *tls.Config) error {
	t.Helper()
	cs, ss := net.Pipe()
	defer cs.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer ss.Close()
		tls.Server(ss, a.ServerConfig()).Handshake()
	}()
	err := tls.Client(cs, client).Handshake()
	cs.Close()
	<-done
	return err
}

func TestPin(t *testing.T) {
	dir := t.TempDir()
	a := authority(t, dir)
	if again := authority(t, dir); again.Pin() != a.Pin() {
		t.Error("opened again, the authority is another")
	}
	right, err := ClientConfig(strings.ToUpper(a.Pin()) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, a, right); err != nil {
		t.Errorf("right pin: %v", err)
	}
	other := authority(t, t.TempDir())
	if err := handshake(t, other, right); err == nil || !strings.Contains(err.Error(), "not from the CA") {
		t.Errorf("server of another authority: %v", err)
	}
	// The right certificate in the chain is worth nothing if it did not sign.
	impostor := authority(t, t.TempDir())
	leaf, err := impostor.certificate()
	if err != nil {
		t.Fatal(err)
	}
	leaf.Certificate[1] = a.cert.Raw
	if err := handshake(t, impostor, right); err == nil {
		t.Error("a certificate that the pinned authority did not sign was trusted")
	}
	for _, pin := range []string{"", "abc", strings.Repeat("0", 63), strings.Repeat("g", 64)} {
		if _, err := ClientConfig(pin); err == nil {
			t.Errorf("pin %q was accepted", pin)
		}
	}
}

func TestRenewal(t *testing.T) {
	a := authority(t, t.TempDir())
	now := time.Now()
	a.now = func() time.Time { return now }
	first, err := a.certificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	now = now.Add(leafLife - renewBefore - time.Hour)
	if same, _ := a.certificate(); same != first {
		t.Error("renewed too early")
	}
	now = now.Add(2 * time.Hour)
	if next, _ := a.certificate(); next == first || !next.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("not renewed when near its end")
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir)
	s, err := Secret(dir, "enrol.token")
	if err != nil || len(s) != 43 {
		t.Fatalf("%q, %v", s, err)
	}
	if again, err := Secret(dir, "enrol.token"); err != nil || again != s {
		t.Errorf("%q, %v", again, err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", d.Name(), info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBadSecretsAndAuthoritiesAreRefused(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range []string{"", "short", "a secret with several words", "0123456789abcdef\ninitrd=evil", "0123456789abcdef${uuid}"} {
		if err := os.WriteFile(filepath.Join(dir, "t"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Secret(dir, "t"); err == nil {
			t.Errorf("secret %q was accepted as %q", bad, s)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil {
		t.Error("a broken ca.pem was accepted, or silently replaced")
	}
}

func TestEqual(t *testing.T) {
	if !Equal("a", "a") || Equal("a", "b") || Equal("a", "") {
		t.Error("Equal does not compare")
	}
}

// A server that starts with a clock that is ahead must not keep a certificate
// that nobody accepts once the clock has been set right.
func TestClockSetBack(t *testing.T) {
	a := authority(t, t.TempDir())
	right := time.Now()
	now := right.Add(60 * 24 * time.Hour)
	a.now = func() time.Time { return now }
	if _, err := a.certificate(); err != nil {
		t.Fatal(err)
	}
	now = right
	if c, err := a.certificate(); err != nil || c.Leaf.NotBefore.After(now) {
		t.Errorf("valid only from %v, and it is %v: %v", c.Leaf.NotBefore, now, err)
	}
}
