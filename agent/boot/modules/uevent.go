package modules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/boot/lastwords"
)

const (
	kernelGroup   = 1        // multicast group of the events that come from the kernel itself
	ueventBuffer  = 16 << 20 // bytes of queue: a large machine shows thousands of devices at once
	maxUeventSize = 8192     // UEVENT_BUFFER_SIZE is 2048, plus the header
)

// uevents delivers the kernel's device events until ctx is done.
func uevents(ctx context.Context) (<-chan event, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	// Without the privilege to force it the default size has to do; overruns
	// are noticed.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket: bind: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevents")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	events := make(chan event, 64)
	lastwords.Go("uevents", func() {
		defer close(events)
		defer f.Close()
		defer stop()
		buf := make([]byte, maxUeventSize)
		for {
			var n int
			var from unix.Sockaddr
			var rerr error
			err := conn.Read(func(fd uintptr) bool {
				n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
				return !errors.Is(rerr, unix.EAGAIN)
			})
			if err != nil {
				return // closed
			}
			var e event
			switch {
			case errors.Is(rerr, unix.ENOBUFS):
				e.overrun = true
			case rerr != nil:
				continue
			default:
				// Any process may send to the group; the kernel's port is 0.
				if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
					continue
				}
				e = parseUevent(buf[:n])
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	})
	return events, nil
}

// parseUevent reads ACTION@DEVPATH NUL KEY=VALUE NUL …; only what appears or
// changes has a driver to load.
func parseUevent(b []byte) event {
	var e event
	var action string
	for field := range bytes.SplitSeq(b, []byte{0}) {
		key, value, ok := bytes.Cut(field, []byte{'='})
		if !ok {
			continue
		}
		switch string(key) {
		case "ACTION":
			action = string(value)
		case "MODALIAS":
			e.modalias = string(value)
		}
	}
	if action == "remove" || action == "unbind" {
		e.modalias = ""
	}
	return e
}
