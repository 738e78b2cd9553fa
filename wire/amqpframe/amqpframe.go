// Package amqpframe takes out of an AMQP 0-9-1 stream what a peer of ours could harm
// us with, before the AMQP library reads it: headers of messages, and bodies beyond
// a bound.
//
// We have no use for headers, and those that the library does not read (nested too
// deep, too many) would break the connection: the broker would then send the same
// message again. A body is collected in memory before anybody could look at its size.
package amqpframe

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Filter returns c with headers taken out of what is read from it. A message with a
// body of more than maxBody bytes loses its body, and oversize, unless it is nil, is
// called with the size that it had; maxBody 0 is no bound. Writing is left alone.
func Filter(c net.Conn, maxBody uint64, oversize func(size uint64)) net.Conn {
	return &filter{Conn: c, r: bufio.NewReaderSize(c, 64<<10), maxBody: maxBody, oversize: oversize, cut: map[uint16]uint64{}}
}

type filter struct {
	net.Conn
	r        *bufio.Reader
	maxBody  uint64
	oversize func(uint64)
	out      []byte            // to be read next
	left     uint64            // bytes of the frame that pass as they are
	cut      map[uint16]uint64 // by channel: bytes of a body that do not pass
}

// A frame is type, channel, size, payload, end (AMQP 0-9-1, 2.3.5).
const (
	frameStart  = 7
	frameHeader = 2       // type of a frame with a message's properties
	frameBody   = 3       // of one with a part of its body
	maxHeader   = 1 << 20 // bytes; it is negotiated to be far less
)

// Read implements io.Reader.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.out) == 0 && f.left == 0 {
		if err := f.next(); err != nil && len(f.out) == 0 {
			return 0, err
		}
	}
	if len(f.out) > 0 {
		n := copy(p, f.out)
		f.out = f.out[n:]
		return n, nil
	}
	n, err := f.r.Read(p[:min(uint64(len(p)), f.left)])
	f.left -= uint64(n)
	return n, err
}

// next reads the start of a frame, and all of it if it holds properties or is cut.
func (f *filter) next() error {
	start := make([]byte, frameStart)
	n, err := io.ReadFull(f.r, start)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			f.out = start[:n] // a broker of another protocol says so in 8 bytes
		}
		return err
	}
	channel, size := binary.BigEndian.Uint16(start[1:]), binary.BigEndian.Uint32(start[3:])
	switch start[0] {
	case frameHeader:
		return f.header(start, channel, size)
	case frameBody:
		if rest := f.cut[channel]; rest > 0 {
			// A broker that sends more than it has announced is left to the library.
			if uint64(size) <= rest {
				if f.cut[channel] = rest - uint64(size); rest == uint64(size) {
					delete(f.cut, channel)
				}
				_, err := io.CopyN(io.Discard, f.r, int64(size)+1)
				return err
			}
			delete(f.cut, channel)
		}
	default:
		delete(f.cut, channel) // a method ends a message
	}
	f.out, f.left = start, uint64(size)+1
	return nil
}

func (f *filter) header(start []byte, channel uint16, size uint32) error {
	if size > maxHeader {
		return fmt.Errorf("AMQP: a header frame of %d bytes, the most is %d", size, maxHeader)
	}
	frame := make([]byte, frameStart+int(size)+1)
	copy(frame, start)
	if _, err := io.ReadFull(f.r, frame[frameStart:]); err != nil {
		return err
	}
	payload := withoutHeaders(frame[frameStart : len(frame)-1])
	end := frame[len(frame)-1]
	delete(f.cut, channel)
	if len(payload) >= atProperties && f.maxBody > 0 {
		if body := binary.BigEndian.Uint64(payload[atBodySize:]); body > f.maxBody {
			f.cut[channel] = body
			binary.BigEndian.PutUint64(payload[atBodySize:], 0)
			if f.oversize != nil {
				f.oversize(body)
			}
		}
	}
	binary.BigEndian.PutUint32(frame[3:], uint32(len(payload)))
	f.out = append(append(frame[:frameStart], payload...), end)
	return nil
}

// Of the payload: class, weight, body size, flags, and the properties that the
// flags tell, in the order of their bits (2.3.5.2).
const (
	atBodySize      = 4
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
