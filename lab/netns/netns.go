// Package netns makes networks of virtual chassis: a network namespace with a
// bridge that chassis and servers are on, and nothing of the machine around it.
// DHCP, TFTP and HTTP work there as on a real provisioning network, on their
// well-known ports, without being seen outside. It needs root and iproute2.
package netns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bridge is the interface of a network's namespace that everybody is on. Servers
// that run in the namespace have the network's address there.
const Bridge = "br0"

const (
	// folder is where ip(8) keeps named namespaces.
	folder = "/run/netns"
	// making is locked between making a temporary network and taking its lock;
	// folder itself is what ip(8) locks.
	making = "/run/teeth-lab.lock"
	// temporary starts the names of networks that nobody needs once their
	// process has ended.
	temporary = "teeth-tmp-"
)

// ErrNotRoot is returned to processes that may not make namespaces.
var ErrNotRoot = errors.New("network namespaces need root")

// Net is a network. Its namespace is what `ip netns exec NAME` enters.
type Net struct {
	Name    string
	Address netip.Prefix // of the bridge, with the length of the network's prefix

	lock   *os.File // held while a temporary network is in use
	routed []*Net   // further networks behind this one
}

// Available reports why this process cannot make networks, or nil.
func Available() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("network namespaces need Debian's package iproute2: %w", err)
	}
	// What a container lacks shows only when it is tried.
	cmd := exec.Command("ip", "-V")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("this machine allows no network namespaces: %w", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("virtual chassis need /dev/net/tun: %w", err)
	}
	return nil
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Create makes a network that stays until Close or Remove. Its servers' address
// is address, say 192.0.2.1/24.
func Create(ctx context.Context, name string, address netip.Prefix) (*Net, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("network name %q: use up to 32 lower-case letters, digits and hyphens", name)
	}
	n := &Net{Name: name, Address: address}
	if err := ip(ctx, "netns", "add", name); err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	if err := n.bridge(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("network %s: %w", name, err), Remove(name))
	}
	return n, nil
}

// Temporary makes a network with a name of its own, which goes away with Close.
// What processes that crashed have left goes away first, with everything that
// runs there.
func Temporary(ctx context.Context, address netip.Prefix) (*Net, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	if f, err := os.OpenFile(making, os.O_CREATE, 0o600); err == nil {
		f.Close()
	}
	guard, err := lock(making, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	if err := sweep(); err != nil {
		return nil, err
	}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	n, err := Create(ctx, temporary+hex.EncodeToString(id[:]), address)
	if err != nil {
		return nil, err
	}
	if n.lock, err = lock(filepath.Join(folder, n.Name), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, Remove(n.Name))
	}
	return n, nil
}

// sweep removes the temporary networks that no process holds a lock on.
func sweep() error {
	names, err := filepath.Glob(filepath.Join(folder, temporary+"*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		held, err := lock(name, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = Remove(filepath.Base(name))
		held.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lock takes a lock that ends with the file, and so with this process.
func lock(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Open finds a network that was made before, by this process or another.
func Open(ctx context.Context, name string) (*Net, error) {
	if _, err := os.Stat(filepath.Join(folder, name)); err != nil || !namePattern.MatchString(name) {
		return nil, fmt.Errorf("network %s: %w", name, os.ErrNotExist)
	}
	out, err := output(ctx, "ip", "-n", name, "-4", "-o", "addr", "show", "dev", Bridge)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	fields := strings.Fields(out)
	for i, f := range fields {
		if f == "inet" && i+1 < len(fields) {
			address, err := netip.ParsePrefix(fields[i+1])
			return &Net{Name: name, Address: address}, err
		}
	}
	return nil, fmt.Errorf("network %s: its bridge has no address: it was not made by the lab", name)
}

func (n *Net) bridge(ctx context.Context) error {
	for _, step := range []string{
		"link set lo up",
		// Without the delay of spanning tree, which a chassis's firmware would
		// wait for in vain.
		"link add " + Bridge + " type bridge forward_delay 0 stp_state 0",
		"addr add " + n.Address.String() + " dev " + Bridge,
		"link set " + Bridge + " up",
	} {
		if err := n.ip(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// Tap makes the interface that a chassis's network card is plugged into, on the
// bridge, unless it is there.
func (n *Net) Tap(ctx context.Context, name string) error {
	out, err := output(ctx, "ip", "-n", n.Name, "-o", "link", "show")
	if err == nil && !strings.Contains(out, ": "+name+":") {
		err = n.ip(ctx, "tuntap add dev "+name+" mode tap")
	}
	for _, step := range []string{"link set " + name + " master " + Bridge, "link set " + name + " up"} {
		if err == nil {
			err = n.ip(ctx, step)
		}
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	return nil
}

// Behind makes a second network that is reached from this one through a router:
// its namespace, in which a DHCP relay can run, has an address of both networks.
// It goes away with the first.
func (n *Net) Behind(ctx context.Context, address netip.Prefix, uplink netip.Addr) (*Net, error) {
	r, err := Create(ctx, n.Name+"-r"+strconv.Itoa(len(n.routed)), address)
	if err != nil {
		return nil, err
	}
	n.routed = append(n.routed, r)
	port := "up" + strconv.Itoa(len(n.routed))
	if err := ip(ctx, "-n", n.Name, "link", "add", port, "type", "veth", "peer", "name", "uplink", "netns", r.Name); err != nil {
		return nil, fmt.Errorf("network %s: %w", r.Name, err)
	}
	for _, step := range []struct {
		in   *Net
		what string
	}{
		{n, "link set " + port + " master " + Bridge},
		{n, "link set " + port + " up"},
		{r, "addr add " + netip.PrefixFrom(uplink, n.Address.Bits()).String() + " dev uplink"},
		{r, "link set uplink up"},
		{n, "route add " + address.Masked().String() + " via " + uplink.String()},
	} {
		if err := step.in.ip(ctx, step.what); err != nil {
			return nil, fmt.Errorf("network %s: %w", r.Name, err)
		}
	}
	err = r.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	if err != nil {
		return nil, fmt.Errorf("network %s: let its router forward: %w", r.Name, err)
	}
	return r, nil
}

// Close ends what runs in the network and in those behind it, and removes them.
func (n *Net) Close() error {
	var err error
	for _, r := range n.routed {
		err = errors.Join(err, r.Close())
	}
	err = errors.Join(err, Remove(n.Name))
	if n.lock != nil {
		err = errors.Join(err, n.lock.Close())
	}
	return err
}

// Remove ends all processes that run in the namespace, and removes it. It is not
// an error if there is none.
func Remove(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("network %q: no such name", name)
	}
	if _, err := os.Stat(filepath.Join(folder, name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// Not the caller's context: cleaning up is what must happen when it ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		out, err := output(ctx, "ip", "netns", "pids", name)
		if err != nil {
			return fmt.Errorf("network %s: %w", name, err)
		}
		pids := strings.Fields(out)
		if len(pids) == 0 {
			break
		}
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL) // fails if it has just ended
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("network %s: processes %v do not end", name, pids)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := ip(ctx, "netns", "del", name); err != nil {
		return fmt.Errorf("network %s: %w", name, err)
	}
	return nil
}

// ip runs ip(8) in the namespace; words are separated by spaces.
func (n *Net) ip(ctx context.Context, words string) error {
	return ip(ctx, append([]string{"-n", n.Name}, strings.Fields(words)...)...)
}

func ip(ctx context.Context, args ...string) error {
	_, err := output(ctx, "ip", args...)
	return err
}

func output(ctx context.Context, program string, args ...string) (string, error) {
	var said strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}
