package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/minion"
)

// streamServer runs a StreamServer with the groups of a configuration until the test
// ends.
func streamServer(t *testing.T, config string) (address string, s *minion.Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "minion.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	groups, _, err := minion.ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = minion.New(minion.Config{Groups: groups, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- s.Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	return l.Addr().String(), s
}

// typedBy makes lines the standard input of the test.
func typedBy(t *testing.T, lines ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdin
	os.Stdin = f
	t.Cleanup(func() {
		os.Stdin = before
		f.Close()
	})
}

// Lines that are sent by hand are in the StreamServer's file when the command ends.
func TestMinionRepl(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := t.TempDir()
	file := filepath.Join(dir, "web.log")
	address, _ := streamServer(t, "groups: [{id: web, key: sesame-1, services: [{service: web, type: file, destination: "+file+", cull: false}]}]")
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("sesame-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	who := []string{"minion", "repl", "--host", address, "-g", "web", "-s", "11111111-2222-3333-4444-555555555555", "--insecure"}
	typedBy(t, "C::heartbeat", "L::web::by hand", "3 times { L::web::again }")
	out, errs, code := teethCommand(t, append(who, "--key-file", key, "--debug")...)
	if code != 0 || !strings.Contains(out, `"recorded"`) || !strings.Contains(out, `"recorded-through"`) || strings.Contains(out, "sesame") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "\n") != 4 || strings.Count(string(b), "again") != 3 || !strings.Contains(string(b), "\tweb\tby hand\n") {
		t.Errorf("%q, %v", b, err)
	}

	typedBy(t)
	if _, errs, code := teethCommand(t, append(who, "-k", "wrong")...); code != 1 || !strings.Contains(errs, "denies access") {
		t.Errorf("exit %d: %s", code, errs)
	}
	typedBy(t, "nonsense")
	if _, errs, code := teethCommand(t, append(who, "-k", "sesame-1")...); code != 1 || !strings.Contains(errs, "1 lines") {
		t.Errorf("exit %d: %s", code, errs)
	}
	for _, bad := range [][]string{{"minion", "repl"}, who, append(who, "-k", "x", "--key-file", key), append(who, "-k", "x", "--ca-sha256", "00")} {
		if _, errs, code := teethCommand(t, bad...); code != 2 {
			t.Errorf("%v: exit %d: %s", bad, code, errs)
		}
	}
}
