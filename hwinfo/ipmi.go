package hwinfo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's IPMI interface, linux/ipmi.h.
const (
	ipmiSystemInterface = 0x0c // address type
	ipmiBMCChannel      = 0x0f
	ipmiMaxMessage      = 272
	// ipmiWait is how long one answer may take. A controller that starts up may
	// not answer for minutes, which an inventory does not wait for.
	ipmiWait = 5 * time.Second
)

type ipmiAddr struct {
	addrType int32
	channel  int16
	lun      uint8
}

type ipmiMsg struct {
	netFn, cmd uint8
	length     uint16
	data       unsafe.Pointer
}

type ipmiReq struct {
	addr    *ipmiAddr
	addrLen uint32
	id      int
	msg     ipmiMsg
}

type ipmiRecv struct {
	kind    int32
	addr    *ipmiAddr
	addrLen uint32
	id      int
	msg     ipmiMsg
}

// _IOR('i', 13, struct ipmi_req) and _IOWR('i', 11, struct ipmi_recv).
var (
	ipmiSend    = uintptr(2<<30 | unsafe.Sizeof(ipmiReq{})<<16 | 'i'<<8 | 13)
	ipmiReceive = uintptr(3<<30 | unsafe.Sizeof(ipmiRecv{})<<16 | 'i'<<8 | 11)
)

// ipmiDevice is an open /dev/ipmi0.
type ipmiDevice struct {
	fd   int
	path string
	last int // message id
}

func openIPMI(path string) (*ipmiDevice, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &ipmiDevice{fd: fd, path: path}, nil
}

func (d *ipmiDevice) close() { unix.Close(d.fd) }

// ask sends a command to the BMC and returns its answer without the completion
// code, which is an error unless it is zero.
func (d *ipmiDevice) ask(ctx context.Context, netFn, cmd uint8, data ...byte) ([]byte, error) {
	answer, err := d.exchange(ctx, netFn, cmd, data)
	if err != nil {
		return nil, fmt.Errorf("%s: command %02x/%02x: %w", d.path, netFn, cmd, err)
	}
	return answer, nil
}

func (d *ipmiDevice) exchange(ctx context.Context, netFn, cmd uint8, data []byte) ([]byte, error) {
	d.last++
	to := &ipmiAddr{addrType: ipmiSystemInterface, channel: ipmiBMCChannel, lun: 0}
	req := &ipmiReq{addr: to, addrLen: uint32(unsafe.Sizeof(*to)), id: d.last, msg: ipmiMsg{
		netFn: netFn, cmd: cmd, length: uint16(len(data)), data: unsafe.Pointer(unsafe.SliceData(data)),
	}}
	if err := d.ioctl(ipmiSend, unsafe.Pointer(req)); err != nil {
		return nil, err
	}
	runtime.KeepAlive(data)
	for deadline := time.Now().Add(ipmiWait); ; {
		if err := d.readable(ctx, deadline); err != nil {
			return nil, err
		}
		buf := make([]byte, ipmiMaxMessage)
		recv := &ipmiRecv{addr: new(ipmiAddr), addrLen: uint32(unsafe.Sizeof(*to)), msg: ipmiMsg{
			length: uint16(len(buf)), data: unsafe.Pointer(unsafe.SliceData(buf)),
		}}
		err := d.ioctl(ipmiReceive, unsafe.Pointer(recv))
		if errors.Is(err, unix.EAGAIN) || (err == nil && recv.id != req.id) { // the answer to a question given up
			continue
		}
		if err != nil {
			return nil, err
		}
		n := int(recv.msg.length)
		if n < 1 || n > len(buf) {
			return nil, fmt.Errorf("answer of %d bytes", n)
		}
		if buf[0] != 0 {
			return nil, fmt.Errorf("completion code 0x%02x", buf[0])
		}
		return buf[1:n], nil
	}
}

func (d *ipmiDevice) ioctl(request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// readable waits until an answer is there.
func (d *ipmiDevice) readable(ctx context.Context, deadline time.Time) error {
	const step = 100 * time.Millisecond // how late a cancel is seen
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("no answer in %s", ipmiWait)
		}
		fds := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(step.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
