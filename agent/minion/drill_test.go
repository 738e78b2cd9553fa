package minion_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/spool"
	streamserver "github.com/teeth-metal/teeth/controlplane/minion"
)

// Environment of the processes that this test binary starts of itself.
const (
	envServer = "TEETH_TEST_STREAMSERVER" // address and file of a StreamServer to be
	envReplay = "TEETH_TEST_REPLAY"       // what an agent is to replay; see bench_test.go
	envDrill  = "TEETH_FAULT_DRILL"       // how long the drill is, as 10m
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envServer) != "":
		serve(os.Getenv(envServer))
	case os.Getenv(envReplay) != "":
		replay(os.Getenv(envReplay))
	default:
		os.Exit(m.Run())
	}
}

// serve is our StreamServer, as a process that can be killed.
func serve(how string) {
	address, file, _ := strings.Cut(how, " ")
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(os.WriteFile(file+".yaml", fmt.Appendf(nil,
		"groups: [{id: g1, key: k1, services: [{service: s, type: file, destination: %q, cull: false, default: true}]}]", file), 0o600))
	groups, _, err := streamserver.ReadConfig(file + ".yaml")
	fail(err)
	s, err := streamserver.New(streamserver.Config{Groups: groups, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	fail(err)
	l, err := net.Listen("tcp", address)
	fail(err)
	ctx := context.Background()
	go func() { fail(s.Serve(ctx, l, nil)) }()
	fail(s.Run(ctx))
}

// killable is a StreamServer in a process of its own.
type killable struct {
	t             testing.TB
	address, file string
	cmd           *exec.Cmd
}

func newKillable(t testing.TB) *killable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := &killable{t: t, address: l.Addr().String(), file: filepath.Join(t.TempDir(), "records")}
	t.Cleanup(func() { k.kill() })
	return k
}

func (k *killable) start() {
	k.t.Helper()
	k.cmd = exec.Command(os.Args[0])
	k.cmd.Env = append(os.Environ(), envServer+"="+k.address+" "+k.file)
	log, err := os.OpenFile(k.file+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
}

// kill ends it as a power cut does, as far as its own memory goes.
func (k *killable) kill() {
	if k.cmd != nil {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		k.cmd = nil
	}
}

// messages returns what the server has, in its order.
func (k *killable) messages() (all []string) {
	f, err := os.Open(k.file)
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.SplitN(sc.Text(), "\t", 4); len(fields) == 4 && fields[2] == "s" {
			all = append(all, fields[3])
		}
	}
	return all
}

// drill logs for so long, with the server down half of the time, and fails unless
// every line arrives once, in order.
func drill(t *testing.T, long, cycle time.Duration, opt spool.Options) {
	opt.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	queue, err := spool.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	c, err := minion.New(minion.Options{Spool: queue, Log: opt.Log})
	if err != nil {
		t.Fatal(err)
	}
	server := newKillable(t)
	if err := c.SetTarget(minion.Target{Addresses: []string{server.address}, Group: "g1", Server: "11111111-2222-3333-4444-555555555555", Key: "k1"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	began, n, kills := time.Now(), 0, 0
	down := 0 * time.Second
	for i := 0; time.Since(began) < long; i++ {
		up := i%2 == 1
		if up {
			server.start()
		}
		// Half of the cycle, more or less: kills hit every phase of a connection.
		half := cycle/4 + rand.N(cycle/2)
		for end := time.Now().Add(half); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			for range 1 + rand.IntN(4) {
				c.Log("s", fmt.Sprintf("line %08d", n))
				n++
			}
		}
		if up {
			server.kill()
			kills++
		} else {
			down += half
		}
	}
	server.start()
	flushing, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err := c.Flush(flushing); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-ended
	got := server.messages()
	t.Logf("%d lines in %v, %d kills, down for %v; spool %+v", n, time.Since(began).Round(time.Second), kills, down.Round(time.Second), queue.Stats())
	for i := range min(len(got), n) {
		if want := fmt.Sprintf("line %08d", i); got[i] != want {
			t.Fatalf("line %d is %q (before it %q): %d lines came of %d", i, got[i], got[max(i-1, 0)], len(got), n)
		}
	}
	if len(got) != n {
		t.Fatalf("%d lines came of %d", len(got), n)
	}
}

// TestFaultDrill is the drill of 8 s, or of ten minutes with TEETH_FAULT_DRILL=10m, and
// then with a spool on disk.
func TestFaultDrill(t *testing.T) {
	t.Parallel() // it waits, most of the time
	duration := os.Getenv(envDrill)
	if duration == "" {
		drill(t, 8*time.Second, 2*time.Second, spool.Options{})
		return
	}
	long, err := time.ParseDuration(duration)
	if err != nil {
		t.Fatalf("%s: %v", envDrill, err)
	}
	drill(t, long, 20*time.Second, spool.Options{Dir: t.TempDir()})
}
