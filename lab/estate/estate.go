// Package estate runs a control plane and chassis of the lab on one machine, as
// the demo and the end-to-end tests do. The control plane is a process of its
// own, `teeth serve`, so that it can be killed as a real one can.
package estate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/netns"
)

// Options of a control plane.
type Options struct {
	Binary  string // the teeth program
	Dir     string // holds its data, log and addresses
	BootDir string // holds the appliance image

	// Network is where it serves chassis; nil is the loopback interface, which
	// chassis in QEMU's user network reach.
	Network *netns.Net
	// Flags are further ones of teeth serve.
	Flags []string
}

// ControlPlane is `teeth serve`. Its operators reach it on the loopback
// interface, wherever it runs.
type ControlPlane struct {
	*client.Client
	Options
	Addresses
	process *exec.Cmd
	ended   chan struct{}
	forward io.Closer // to the API in a network of its own
}

// Addresses are where a control plane listens. They stay the same from one start
// to the next, as chassis come back to them.
type Addresses struct {
	Agents, API, Boot, InsecureAgents, Minion string
}

// Start starts the control plane and returns when it answers. It runs until Stop
// or Kill, or until ctx ends.
func Start(ctx context.Context, o Options) (*ControlPlane, error) {
	c := &ControlPlane{Options: o}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if err := c.chooseAddresses(); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	return c, c.Restart(ctx)
}

// chooseAddresses takes those of the last start, or free ones.
func (c *ControlPlane) chooseAddresses() error {
	file := filepath.Join(c.Dir, "addresses.json")
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &c.Addresses)
		// The network may be another one than last time.
		c.serveNetwork()
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, a := range []*string{&c.Agents, &c.API, &c.Boot, &c.InsecureAgents, &c.Minion} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		*a = l.Addr().String()
	}
	c.serveNetwork()
	if b, err = json.Marshal(c.Addresses); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// serveNetwork has the control plane listen where its chassis are. Nobody else
// is in their network, so that the usual ports are free.
func (c *ControlPlane) serveNetwork() {
	if c.Network == nil {
		return
	}
	at := func(port string) string { return net.JoinHostPort(c.Network.Address.Addr().String(), port) }
	c.Agents, c.Boot, c.InsecureAgents, c.Minion = at("8081"), at("8082"), at("8083"), at("6766")
}

// Restart starts the control plane again, with the same data and addresses.
func (c *ControlPlane) Restart(ctx context.Context) error {
	log, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	defer log.Close()
	data := filepath.Join(c.Dir, "data")
	cmd := exec.CommandContext(ctx, c.Binary, "serve", "--data", data, "--boot-dir", c.BootDir,
		"--agents", c.Agents, "--api", c.API, "--boot", c.Boot,
		"--insecure", "--insecure-agents", c.InsecureAgents, "--minion", c.Minion, "--kernel-args", "panic=10")
	cmd.Args = append(cmd.Args, c.Flags...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	// Not at the mercy of a Ctrl-C meant for the caller, who still has to tell it things.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	start := cmd.Start
	if c.Network != nil {
		start = func() error { return c.Network.Do(cmd.Start) }
		if c.forward == nil {
			if c.forward, err = c.Network.Forward(c.API); err != nil {
				return fmt.Errorf("control plane: %w", err)
			}
		}
	}
	if err := start(); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	c.process, c.ended = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(c.ended)
	}()
	return c.waitReady(ctx, controlplane.ClientFile(data))
}

func (c *ControlPlane) waitReady(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		var err error
		if c.Client == nil {
			var conf client.Config
			if conf, err = client.Load(file); err == nil {
				c.Client, err = client.New(conf)
			}
		}
		if err == nil {
			if _, err = c.Version(ctx); err == nil {
				return nil
			}
		}
		select {
		case <-c.ended:
			return fmt.Errorf("control plane ended; its log, %s, ends with: %s", c.LogFile(), tail(c.LogFile()))
		case <-ctx.Done():
			return fmt.Errorf("control plane does not answer: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// LogFile returns the path of the control plane's log.
func (c *ControlPlane) LogFile() string { return filepath.Join(c.Dir, "serve.log") }

// Stop ends the control plane as an operator would.
func (c *ControlPlane) Stop() {
	c.end(syscall.SIGTERM)
	if c.forward != nil {
		c.forward.Close() // fails when it is closed
		c.forward = nil
	}
}

// Kill ends it with SIGKILL, which leaves it no time for anything.
func (c *ControlPlane) Kill() { c.end(syscall.SIGKILL) }

func (c *ControlPlane) end(s syscall.Signal) {
	if c.process == nil {
		return
	}
	c.process.Process.Signal(s) // fails when it has ended
	select {
	case <-c.ended:
	case <-time.After(15 * time.Second):
		c.process.Process.Kill()
		<-c.ended
	}
}

// BootURL is where a chassis of the lab finds its boot script.
func (c *ControlPlane) BootURL() string {
	return "http://" + c.fromChassis(c.Boot) + "/boot/ipxe"
}

// AgentsFromChassis is where an agent in a chassis of the lab finds the control
// plane.
func (c *ControlPlane) AgentsFromChassis() string { return c.fromChassis(c.Agents) }

func (c *ControlPlane) fromChassis(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		panic(err) // we chose it
	}
	if c.Network != nil {
		return address
	}
	return net.JoinHostPort(lab.HostAddress, port)
}

// WaitChassis waits until the control plane knows the chassis with this SMBIOS
// serial number and is says yes to it.
func (c *ControlPlane) WaitChassis(ctx context.Context, serial string, is func(client.Chassis) bool) (client.Chassis, error) {
	for {
		ch, err := c.Chassis(ctx, serial)
		if err == nil && is(ch) {
			return ch, nil
		}
		if err != nil && !errors.Is(err, client.ErrNotFound) && !errors.Is(err, client.ErrUnreachable) {
			return ch, err
		}
		select {
		case <-ctx.Done():
			return ch, fmt.Errorf("chassis %s is %s: %w", serial, ch.State, ctx.Err())
		case <-time.After(250 * time.Millisecond):
		}
	}
}
