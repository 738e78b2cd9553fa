package hwinfo

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/blockdev"
)

// ethtool asks network drivers by SIOCETHTOOL, without netlink: it works on every
// kernel and needs no route or address.
type ethtool struct{ fd int }

func newEthtool() (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket for ethtool: %w", err)
	}
	return &ethtool{fd}, nil
}

func (e *ethtool) close() { unix.Close(e.fd) }

// complete adds to n what only its driver knows. A driver need not know any of
// it.
func (e *ethtool) complete(n *NIC) {
	if info, err := unix.IoctlGetEthtoolDrvinfo(e.fd, n.Name); err == nil {
		n.Firmware = meaningful(blockdev.Printable(unix.ByteSliceToString(info.Fw_version[:])))
		if n.Driver == "" {
			n.Driver = blockdev.Printable(unix.ByteSliceToString(info.Driver[:]))
		}
	}
	if mac := e.permanentMAC(n.Name); mac != nil {
		n.MAC = mac.String()
	}
	n.MaxSpeedMbps = e.maxSpeed(n.Name)
}

// call passes b, an ethtool command structure, to the driver of the interface.
func (e *ethtool) call(name string, b []byte) error {
	if len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("interface %s: name too long", name)
	}
	// struct ifreq: the name, then a union of 24 bytes that holds a pointer here.
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(unsafe.SliceData(b))}
	copy(req.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fmt.Errorf("interface %s: ethtool: %w", name, errno)
	}
	return nil
}

// permanentMAC is ETHTOOL_GPERMADDR; nil where the driver has none.
func (e *ethtool) permanentMAC(name string) net.HardwareAddr {
	const header, room = 8, 32 // struct ethtool_perm_addr; MAX_ADDR_LEN
	b := make([]byte, header+room)
	binary.NativeEndian.PutUint32(b[0:], unix.ETHTOOL_GPERMADDR)
	binary.NativeEndian.PutUint32(b[4:], room)
	if e.call(name, b) != nil {
		return nil
	}
	return decodePermAddr(b)
}

func decodePermAddr(b []byte) net.HardwareAddr {
	n := binary.NativeEndian.Uint32(b[4:])
	if n != 6 && n != 20 { // Ethernet, InfiniBand
		return nil
	}
	mac := net.HardwareAddr(b[8 : 8+n])
	for _, x := range mac {
		if x != 0 {
			return mac
		}
	}
	return nil
}

// maxSpeed is the highest speed of the link modes the port supports, by
// ETHTOOL_GLINKSETTINGS (Linux 4.6); 0 where the driver does not say.
func (e *ethtool) maxSpeed(name string) int {
	// struct ethtool_link_settings: 48 bytes, of which the one at 15 is the length
	// of each of the three bitmaps that follow, in 32-bit words. Asked with none,
	// the kernel answers with how many it wants, negated.
	const header, nwordsAt, maxWords = 48, 15, 127
	b := make([]byte, header+3*4*maxWords)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GLINKSETTINGS)
	if e.call(name, b) != nil {
		return 0
	}
	words := -int8(b[nwordsAt])
	if words <= 0 {
		return 0
	}
	clear(b)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GLINKSETTINGS)
	b[nwordsAt] = byte(words)
	if e.call(name, b) != nil || int8(b[nwordsAt]) != words {
		return 0
	}
	return maxLinkMode(b[header : header+4*int(words)])
}

// maxLinkMode returns the highest speed, in Mbit/s, of a bitmap of link modes in
// 32-bit words.
func maxLinkMode(bitmap []byte) int {
	fastest := 0
	for _, m := range linkModes {
		for bit := m.first; bit <= m.last; bit++ {
			word := bit / 32 * 4
			if word+4 > len(bitmap) {
				break
			}
			if binary.NativeEndian.Uint32(bitmap[word:])>>(bit%32)&1 == 1 {
				fastest = max(fastest, m.mbps)
			}
		}
	}
	return fastest
}

// linkModes are the speeds of enum ethtool_link_mode_bit_indices in
// linux/ethtool.h, as runs of bits. Bits that are no speed (autonegotiation,
// ports, pause, FEC) are left out.
var linkModes = []struct{ first, last, mbps int }{
	{0, 1, 10}, {2, 3, 100}, {4, 5, 1000}, {12, 12, 10000}, {15, 15, 2500}, {17, 17, 1000},
	{18, 20, 10000}, {21, 22, 20000}, {23, 26, 40000}, {27, 30, 56000}, {31, 33, 25000},
	{34, 35, 50000}, {36, 39, 100000}, {40, 40, 50000}, {41, 41, 1000}, {42, 46, 10000},
	{47, 47, 2500}, {48, 48, 5000}, {52, 56, 50000}, {57, 61, 100000}, {62, 66, 200000},
	{67, 67, 100}, {68, 68, 1000}, {69, 73, 400000}, {75, 79, 100000}, {80, 84, 200000},
	{85, 89, 400000}, {90, 91, 100}, {92, 92, 10}, {93, 98, 800000},
}
