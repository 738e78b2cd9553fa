package bus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// headless takes the headers out of messages before the AMQP library reads them.
// We have no use for them, and headers of a peer that the library does not read
// (nested too deep, too many) would break the connection: the broker would then
// send the same message again.
type headless struct {
	net.Conn
	r    *bufio.Reader
	out  []byte // to be read next
	left uint64 // bytes of the frame that pass as they are
}

func newHeadless(c net.Conn) *headless {
	return &headless{Conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// A frame is type, channel, size, payload, end (AMQP 0-9-1, 2.3.5).
const (
	frameStart  = 7
	frameHeader = 2       // type of a frame with a message's properties
	maxHeader   = 1 << 20 // bytes; it is negotiated to be far less
)

// Read implements io.Reader.
func (h *headless) Read(p []byte) (int, error) {
	if len(h.out) == 0 && h.left == 0 {
		if err := h.next(); err != nil && len(h.out) == 0 {
			return 0, err
		}
	}
	if len(h.out) > 0 {
		n := copy(p, h.out)
		h.out = h.out[n:]
		return n, nil
	}
	n, err := h.r.Read(p[:min(uint64(len(p)), h.left)])
	h.left -= uint64(n)
	return n, err
}

// next reads the start of a frame, and all of it if it holds properties.
func (h *headless) next() error {
	start := make([]byte, frameStart)
	n, err := io.ReadFull(h.r, start)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			h.out = start[:n] // a broker of another protocol says so in 8 bytes
		}
		return err
	}
	size := binary.BigEndian.Uint32(start[3:])
	if start[0] != frameHeader {
		h.out, h.left = start, uint64(size)+1
		return nil
	}
	if size > maxHeader {
		return fmt.Errorf("AMQP: a header frame of %d bytes, the most is %d", size, maxHeader)
	}
	frame := make([]byte, frameStart+int(size)+1)
	copy(frame, start)
	if _, err := io.ReadFull(h.r, frame[frameStart:]); err != nil {
		return err
	}
	payload := withoutHeaders(frame[frameStart : len(frame)-1])
	end := frame[len(frame)-1]
	binary.BigEndian.PutUint32(frame[3:], uint32(len(payload)))
	h.out = append(append(frame[:frameStart], payload...), end)
	return nil
}

// Of the payload: class, weight, body size, flags, and the properties that the
// flags tell, in the order of their bits (2.3.5.2).
const (
	atFlags         = 12
	atProperties    = 14
	contentType     = 1 << 15
	contentEncoding = 1 << 14
	headers         = 1 << 13
	moreFlags       = 1
)

// withoutHeaders returns the payload of a header frame without the property
// headers, in the same memory. One that it cannot read it returns as it is.
func withoutHeaders(p []byte) []byte {
	if len(p) < atProperties {
		return p
	}
	flags := binary.BigEndian.Uint16(p[atFlags:])
	if flags&headers == 0 || flags&moreFlags != 0 {
		return p
	}
	from := atProperties
	for _, text := range []uint16{contentType, contentEncoding} {
		if flags&text == 0 {
			continue
		}
		if from >= len(p) {
			return p
		}
		from += 1 + int(p[from])
	}
	if from+4 > len(p) {
		return p
	}
	to := uint64(from) + 4 + uint64(binary.BigEndian.Uint32(p[from:]))
	if to > uint64(len(p)) {
		return p
	}
	binary.BigEndian.PutUint16(p[atFlags:], flags&^headers)
	return append(p[:from], p[to:]...)
}
