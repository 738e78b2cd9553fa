package scale

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// serveEnv makes this test's program a control plane: its configuration as JSON.
const serveEnv = "TEETH_SCALE_SERVE"

// profileEnv makes control planes write a CPU profile, from their start until they
// are first measured, to a new file whose path begins with its value.
const profileEnv = "TEETH_SCALE_PROFILE"

type settings struct{ Dir, Agents, Plain, API, Boot string }

func TestMain(m *testing.M) {
	text := os.Getenv(serveEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if path := os.Getenv(profileEnv); path != "" {
		f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	go func() { // every line asks for memory; the end of input ends the program
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			out.Encode(measure())
		}
		os.Exit(1)
	}()
	// As an operator has it: what is logged costs something, too.
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return controlplane.Serve(context.Background(), controlplane.Config{
		DataDir: s.Dir, BootDir: s.Dir, Version: "scale", Log: slog.New(slog.NewMultiHandler(
			slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}), slog.NewTextHandler(log, nil))),
		Agents: s.Agents, InsecureAgents: s.Plain, API: s.API, Boot: s.Boot,
		Enrolment: controlplane.EnrolmentConfig{AutoApprove: []store.Rule{{Kind: store.RuleAll}}},
		Ready:     func(i controlplane.Info) { out.Encode(i) },
	})
}

// memory is what a process holds after a collection, in bytes.
type memory struct {
	Live       uint64 // reachable objects and stacks
	Resident   uint64 // of the process, as the kernel sees it
	Goroutines int
	CPU        time.Duration // of all that it has done so far
}

// cpu is the processor time that this process has taken.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func measure() memory {
	spent := cpu() // before the collections
	pprof.StopCPUProfile()
	for range 2 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := memory{Live: m.HeapAlloc + m.StackInuse, Goroutines: runtime.NumGoroutine(), CPU: spent}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		fmt.Sscan(string(b), &size, &resident)
		r.Resident = resident * uint64(os.Getpagesize())
	}
	return r
}

// server is a control plane that can be killed and started again.
type server struct {
	settings
	info  controlplane.Info
	token string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{settings: settings{Dir: t.TempDir()}}
	for _, a := range []*string{&s.Agents, &s.Plain, &s.API, &s.Boot} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		*a = l.Addr().String()
	}
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(t testing.TB) {
	t.Helper()
	conf, err := json.Marshal(s.settings)
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(os.Args[0], "-test.run=^$")
	s.cmd.Env = append(os.Environ(), serveEnv+"="+string(conf))
	s.cmd.Stderr = os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	s.answer(t, &s.info)
	if s.token, err = pki.Secret(s.Dir, "enrol.token"); err != nil {
		t.Fatal(err)
	}
}

func (s *server) answer(t testing.TB, v any) {
	t.Helper()
	line, err := s.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		t.Fatalf("the server said %q: %v", strings.TrimSpace(string(line)), err)
	}
}

func (s *server) memory(t testing.TB) (m memory) {
	t.Helper()
	io.WriteString(s.in, "memory\n")
	s.answer(t, &m)
	return m
}

func (s *server) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// chassis are all that the server knows.
func (s *server) chassis(t testing.TB) []client.Chassis {
	t.Helper()
	conf, err := client.Load(s.info.ClientFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list, err := c.ListChassis(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
