package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Do calls f in the namespace: sockets that f makes and processes that it starts
// belong there. It must not start goroutines that do so.
func (n *Net) Do(f func() error) error { return In(n.Name, f) }

// In is Do for the network with this name.
func In(name string, f func() error) error {
	target, err := os.Open(filepath.Join(folder, filepath.Base(name)))
	if err != nil {
		return fmt.Errorf("network %s: %w", name, err)
	}
	defer target.Close()
	failed := make(chan error, 1)
	// A goroutine of its own, as the thread is lost if it cannot come back.
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			failed <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			failed <- fmt.Errorf("enter network %s: %w", name, err)
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			failed <- errors.Join(err, fmt.Errorf("leave network %s: %w", name, back))
			return
		}
		runtime.UnlockOSThread()
		failed <- err
	}()
	return <-failed
}

// Command is exec.CommandContext for a program that is to run in the namespace;
// ip(8), which becomes that program, also hides the sysfs of other namespaces.
func (n *Net) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, program}, args...)...)
}

// Forward makes a TCP address of the namespace reachable under the same address
// outside, until the returned closer is called. The address is of the loopback
// interface, where both have their own.
func (n *Net) Forward(address string) (io.Closer, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", n.Name, err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go n.relay(conn, address)
		}
	}()
	return l, nil
}

func (n *Net) relay(conn net.Conn, address string) {
	defer conn.Close()
	var inside net.Conn
	err := n.Do(func() (err error) {
		inside, err = net.Dial("tcp", address)
		return err
	})
	if err != nil {
		return // the peer sees a closed connection, as when nobody listens
	}
	defer inside.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, inside}, {inside, conn}} {
		both.Go(func() {
			io.Copy(way[0], way[1])
			way[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}
