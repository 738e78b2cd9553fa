// Package netnstest gives tests networks of their own: a namespace with a bridge,
// clients on it, and the test's own program as a server in it.
package netnstest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/lab/netns"
)

// Network is a network that ends with its test.
type Network struct {
	*netns.Net
	t testing.TB
}

// New makes a network whose bridge has this address.
func New(t testing.TB, address string) *Network {
	t.Helper()
	need.Right(t, netns.Available())
	n, err := netns.Temporary(t.Context(), netip.MustParsePrefix(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Network{n, t}
}

// Client makes a namespace with one interface, eth0, on the bridge of in.
func (n *Network) Client(in *netns.Net, name string) *netns.Net {
	n.t.Helper()
	// Not with the name's beginning: what begins so and is locked by nobody is swept away.
	c := &netns.Net{Name: strings.TrimPrefix(in.Name, "teeth-tmp-") + "-" + name}
	n.Run(nil, "ip", "netns", "add", c.Name)
	n.t.Cleanup(func() {
		if err := netns.Remove(c.Name); err != nil {
			n.t.Error(err)
		}
	})
	n.Run(nil, "ip", "-n", in.Name, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", c.Name)
	n.Run(nil, "ip", "-n", in.Name, "link", "set", name, "master", netns.Bridge, "up")
	n.Run(nil, "ip", "-n", c.Name, "link", "set", "eth0", "up")
	return c
}

// Run runs a program, in a namespace unless that is nil, and returns what it says.
func (n *Network) Run(in *netns.Net, program string, args ...string) string {
	n.t.Helper()
	out, err := n.Try(in, program, args...)
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run for a program that may fail.
func (n *Network) Try(in *netns.Net, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	if in != nil {
		cmd = in.Command(ctx, program, args...)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// variable is what Serve tells the process it starts.
const variable = "TEETH_TEST_SERVER"

// Main is a TestMain for tests that call Serve: in the process that it starts,
// which is the test's program once more, serve runs until the test ends.
func Main(m *testing.M, serve func(ctx context.Context, what string) error) {
	what, ok := os.LookupEnv(variable)
	if !ok {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the test
		cancel()
	}()
	if err := serve(ctx, what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Serve starts the function of Main in the network's namespace, given what, and
// waits until it has logged, on stderr, that it is up.
func (n *Network) Serve(what, up string) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := n.Command(context.Background(), self)
	cmd.Env = append(os.Environ(), variable+"="+what)
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	ready, ended := make(chan struct{}, 1), make(chan struct{})
	var lines []string
	go func() {
		defer close(ended)
		for scanner := bufio.NewScanner(log); scanner.Scan(); {
			if lines = append(lines, scanner.Text()); strings.Contains(scanner.Text(), up) {
				select {
				case ready <- struct{}{}:
				default:
				}
			}
		}
	}()
	n.t.Cleanup(func() {
		in.Close()
		<-ended
		if err := cmd.Wait(); err != nil {
			n.t.Error("server:", err)
		}
		if n.t.Failed() {
			n.t.Log("server:\n" + strings.Join(lines, "\n"))
		}
	})
	select {
	case <-ready:
	case <-ended:
		n.t.Fatal("the server does not come up")
	case <-time.After(20 * time.Second):
		n.t.Fatal("the server takes too long")
	}
}
