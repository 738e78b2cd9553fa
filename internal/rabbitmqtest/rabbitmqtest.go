// Package rabbitmqtest starts a RabbitMQ broker of its own for a test: the
// distribution's package, on free loopback ports, with everything it writes in
// the test's temporary folder.
package rabbitmqtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/internal/need"
)

const (
	home    = "/usr/lib/rabbitmq/bin"
	patient = 2 * time.Minute // for a start on a busy machine
)

// TLS has the files of a broker that also listens with TLS and wants clients to
// present a certificate of the CA.
type TLS struct{ CA, Cert, Key string }

// Broker is a running RabbitMQ. Its user is guest, with the password guest.
type Broker struct {
	t                    testing.TB
	dir                  string
	port, tlsPort        string
	env                  []string
	epmd, server         *exec.Cmd
	log                  *os.File
	ended                chan struct{} // closed when server has
	epmdPort, distribute string
}

// Start starts a broker that is stopped when the test ends. It skips the test
// when RabbitMQ is not installed, and with -short.
func Start(t testing.TB) *Broker { return StartTLS(t, nil) }

// StartTLS is Start with a TLS listener besides, unless files is nil.
func StartTLS(t testing.TB, files *TLS) *Broker {
	t.Helper()
	need.Time(t, "a real RabbitMQ takes seconds to start")
	for _, program := range []string{filepath.Join(home, "rabbitmq-server"), "/usr/bin/epmd", "/usr/bin/erl"} {
		need.File(t, program, "rabbitmq-server")
	}
	b := &Broker{t: t, dir: t.TempDir(), port: freePort(t), epmdPort: freePort(t), distribute: freePort(t)}
	config := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%s\nloopback_users.guest = true\nlog.console.level = info\n", b.port)
	if files != nil {
		b.tlsPort = freePort(t)
		config += fmt.Sprintf("listeners.ssl.1 = 127.0.0.1:%s\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
			b.tlsPort, files.CA, files.Cert, files.Key)
	}
	for name, content := range map[string]string{"rabbitmq.conf": config, "plugins": "[].\n"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.env = append(os.Environ(),
		"HOME="+b.dir, // of the Erlang cookie
		"RABBITMQ_HOME=/usr/lib/rabbitmq/lib/"+version(t),
		"RABBITMQ_NODENAME=teeth"+b.port+"@localhost",
		"RABBITMQ_DIST_PORT="+b.distribute,
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CONFIG_FILE="+filepath.Join(b.dir, "rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(b.dir, "advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(b.dir, "plugins"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(b.dir, "mnesia"),
		"RABBITMQ_LOG_BASE="+filepath.Join(b.dir, "log"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE="+filepath.Join(b.dir, "pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
		"RABBITMQ_CTL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"ERL_EPMD_PORT="+b.epmdPort,
		"ERL_EPMD_ADDRESS=127.0.0.1",
	)
	var err error
	if b.log, err = os.OpenFile(filepath.Join(b.dir, "broker.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	// Erlang would start this by itself, as a daemon that outlives the test.
	b.epmd = exec.Command("/usr/bin/epmd", "-port", b.epmdPort, "-address", "127.0.0.1")
	b.epmd.Stdout, b.epmd.Stderr = b.log, b.log
	if err := b.epmd.Start(); err != nil {
		t.Fatalf("start epmd: %v", err)
	}
	t.Cleanup(func() {
		b.Kill()
		b.epmd.Process.Kill()
		b.epmd.Wait()
		b.log.Close()
	})
	b.Run()
	return b
}

func version(t testing.TB) string {
	dirs, err := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*")
	if err != nil || len(dirs) == 0 {
		need.Installed(t, errors.New("RabbitMQ in /usr/lib/rabbitmq/lib"), "rabbitmq-server")
	}
	return filepath.Base(dirs[0])
}

// freePort returns a port outside the range from which the kernel gives ports to
// other programs' connections: the broker binds it seconds later, and again when it
// is restarted.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.N(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port from 10000 to 30000 on 127.0.0.1")
	return ""
}

// Run starts the broker again after Kill, with what it had on disk, and waits
// until it accepts connections.
func (b *Broker) Run() {
	b.t.Helper()
	b.server = exec.Command(filepath.Join(home, "rabbitmq-server"))
	b.server.Env, b.server.Dir = b.env, b.dir
	b.server.Stdout, b.server.Stderr = b.log, b.log
	b.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.server.Start(); err != nil {
		b.t.Fatalf("start RabbitMQ: %v", err)
	}
	ended, server := make(chan struct{}), b.server
	b.ended = ended
	go func() {
		server.Wait()
		close(ended)
	}()
	deadline := time.Now().Add(patient)
	for {
		conn, err := amqp.Dial(b.URL())
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			b.t.Fatalf("RabbitMQ ended at start:\n%s", b.tail())
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("RabbitMQ does not accept connections within %v: %v\n%s", patient, err, b.tail())
		}
	}
}

// URL returns where the broker is.
func (b *Broker) URL() string { return "amqp://guest:guest@127.0.0.1:" + b.port + "/" }

// Channel opens a channel on a connection of its own, as another program would,
// which the caller closes.
func (b *Broker) Channel() (ch *amqp.Channel, closeConn func() error) {
	b.t.Helper()
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		b.t.Fatal(err)
	}
	if ch, err = conn.Channel(); err != nil {
		conn.Close()
		b.t.Fatal(err)
	}
	return ch, conn.Close
}

// TLSURL returns where it is with TLS.
func (b *Broker) TLSURL() string { return "amqps://guest:guest@localhost:" + b.tlsPort + "/" }

// Address returns host and port of the listener without TLS.
func (b *Broker) Address() string { return "127.0.0.1:" + b.port }

// Kill ends the broker without a chance to put anything in order.
func (b *Broker) Kill() {
	if b.server == nil {
		return
	}
	// The shell script, the emulator and its helpers are one process group.
	syscall.Kill(-b.server.Process.Pid, syscall.SIGKILL)
	<-b.ended
	b.server = nil
}

// Freeze stops the broker from doing anything, with its connections open.
func (b *Broker) Freeze() { syscall.Kill(-b.server.Process.Pid, syscall.SIGSTOP) }

// Thaw ends Freeze.
func (b *Broker) Thaw() { syscall.Kill(-b.server.Process.Pid, syscall.SIGCONT) }

// Ctl runs rabbitmqctl and returns what it prints.
func (b *Broker) Ctl(args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(home, "rabbitmqctl"), append([]string{"-q"}, args...)...)
	cmd.Env, cmd.Dir = b.env, b.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (b *Broker) tail() []byte {
	content, _ := os.ReadFile(b.log.Name())
	if i := len(content) - 4000; i > 0 {
		content = content[i:]
	}
	return bytes.TrimSpace(content)
}
