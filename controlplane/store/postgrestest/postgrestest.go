// Package postgrestest runs a throw-away PostgreSQL server for tests, from the
// programs that Debian's package postgresql installs. It has nothing to do with
// the cluster that the package may start by itself.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/teeth-metal/teeth/internal/need"
)

// Environment is the variable that may hold the URL of a PostgreSQL server to be
// used instead; its user must be allowed to create databases. Restart then skips
// the test.
const Environment = "TEETH_TEST_POSTGRES"

// startup is how long the server may take until it accepts connections.
const startup = time.Minute

// Server is a running PostgreSQL server.
type Server struct {
	url       string // of its database postgres
	bin, data string
	port      int
	as        *syscall.Credential
	log       string

	process *os.Process
	ended   chan struct{}
}

// Option of Start: a setting of the server, such as "fsync=off".
type Option string

// Start runs a server, with only a loopback address, until the test ends. It
// skips the test if PostgreSQL is not installed.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	if url := os.Getenv(Environment); url != "" {
		return &Server{url: url}
	}
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		need.Installed(t, errors.New("PostgreSQL, with "+Environment+" not set,"), "postgresql")
	}
	slices.Sort(bins)
	s := &Server{bin: filepath.Dir(bins[len(bins)-1])}
	// Not t.TempDir: others than its owner cannot enter that.
	dir, err := os.MkdirTemp("", "teeth-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		need.Installed(t, err, "postgresql")
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s.data, s.log = filepath.Join(dir, "data"), filepath.Join(dir, "log")
	out, err := s.command(context.Background(), "initdb", "--auth=trust", "--username=teeth", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D", s.data).CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conf, "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '%s'\nmax_connections = 200\nshared_buffers = '32MB'\n", dir)
	for _, o := range options {
		fmt.Fprintln(conf, string(o))
	}
	if err := conf.Close(); err != nil {
		t.Fatal(err)
	}
	if s.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	s.url = fmt.Sprintf("postgres://teeth@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	t.Cleanup(func() { s.stop() })
	s.Run(t)
	return s
}

// command prepares one of PostgreSQL's programs.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// URL is what store.Open takes to reach a database of the server.
func (s *Server) URL(database string) string {
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		panic(err)
	}
	return strings.Replace(s.url, "/"+config.Database+"?", "/"+database+"?", 1)
}

var databases atomic.Int64

// Database creates an empty database, which is dropped when the test ends, and
// returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("teeth_%d_%d", os.Getpid(), databases.Add(1))
	s.exec(t, "CREATE DATABASE "+name)
	t.Cleanup(func() {
		if s.ended != nil {
			select {
			case <-s.ended: // and its data with it
				return
			default:
			}
		}
		s.exec(t, "DROP DATABASE "+name+" WITH (FORCE)")
	})
	return s.URL(name)
}

func (s *Server) exec(t testing.TB, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Run starts the server again after Kill and waits until it accepts connections.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.own(t)
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command(context.Background(), "postgres", "-D", s.data, "-p", strconv.Itoa(s.port))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // should the test not get to its end
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when the thread ends, so it must not
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	s.process, s.ended = cmd.Process, ended
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.url)
		if err == nil {
			conn.Close(ctx)
			return
		}
		select {
		case <-ended:
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
			continue
		}
		text, _ := os.ReadFile(s.log)
		t.Fatalf("PostgreSQL does not start: %v\n%s", err, text)
	}
}

// Kill ends the server at once, as a crash does: connections break off and it
// recovers from its log when it is run again.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.own(t)
	if err := errors.Join(s.process.Signal(syscall.SIGQUIT), s.wait()); err != nil {
		t.Fatalf("end PostgreSQL: %v", err)
	}
}

// Restart is Kill and Run.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill(t)
	s.Run(t)
}

func (s *Server) own(t testing.TB) {
	t.Helper()
	if s.data == "" {
		t.Skipf("the PostgreSQL server that %s names is not ours to restart", Environment)
	}
}

func (s *Server) wait() error {
	select {
	case <-s.ended:
		return nil
	case <-time.After(startup):
		s.process.Kill()
		return errors.New("it does not end")
	}
}

func (s *Server) stop() {
	if s.process != nil {
		s.process.Signal(syscall.SIGQUIT)
		s.wait()
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
