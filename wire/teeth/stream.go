package teeth

import (
	"bufio"
	"errors"
	"io"
)

// ErrLineTooLong is a line of more than MaxLine bytes. Nothing after it on the
// connection can be trusted to start a message: the connection must be closed.
var ErrLineTooLong = errors.New("line longer than 524288 bytes")

// keepBuffer is the most memory a Reader or Writer keeps between lines. A
// server holds thousands of idle sessions, and long lines are rare.
const keepBuffer = 16 << 10

// Reader reads lines from a connection.
type Reader struct {
	br  *bufio.Reader
	buf []byte // a line longer than br's buffer
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, 4096)}
}

// ReadLine returns the next line without its line end and the spaces around it;
// it may be empty, and is then no message but still a sign of life. The line is
// valid until the next call. A connection that ends within a line is
// io.ErrUnexpectedEOF.
func (r *Reader) ReadLine() ([]byte, error) {
	if cap(r.buf) > keepBuffer {
		r.buf = nil
	}
	r.buf = r.buf[:0]
	for {
		part, err := r.br.ReadSlice('\n')
		if err == nil && len(r.buf) == 0 {
			return trim(part), nil
		}
		size := len(r.buf) + len(part)
		if err == nil {
			size-- // the line feed does not count
		}
		if size > MaxLine {
			return nil, ErrLineTooLong
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == nil:
			return trim(r.buf), nil
		case err == io.EOF && len(r.buf) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

// Writer writes messages to a connection. It is not safe for concurrent use.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteMessage writes m as one line in one call of the underlying Write, so
// that nothing is left in a buffer. A message that cannot be encoded is an
// error, and nothing was written.
func (w *Writer) WriteMessage(m Message) error {
	b, err := m.Append(w.buf[:0])
	if err != nil {
		return err
	}
	if w.buf = b; cap(b) > keepBuffer {
		w.buf = nil
	}
	_, err = w.w.Write(b)
	return err
}
