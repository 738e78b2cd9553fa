package minion

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/spool"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// A record in the spool is the payload of its frame, without the group and the
// server that data begins with: a chassis learns who it is after it has begun to log.

// length is that of a frame's length, which the spool does not keep.
const length = 2

func (c *Client) put(f wire.Frame) {
	_ = encoded(f, func(payload []byte) error { // its length is bounded
		// Only a spool that was closed refuses it, and what could be said of that would
		// come here again.
		_, err := c.spool.Put(payload)
		return err
	})
}

func (c *Client) putWait(ctx context.Context, f wire.Frame) error {
	return encoded(f, func(payload []byte) error {
		_, err := c.spool.PutWait(ctx, payload)
		return err
	})
}

// buffers are of encoded.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// encoded calls put with the payload of f, which is good until put returns.
func encoded(f wire.Frame, put func(payload []byte) error) error {
	buf := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= 2*wire.MaxSent { // long ones are rare
			buffers.Put(buf)
		}
	}()
	b, err := f.AppendLarge((*buf)[:0])
	if err != nil {
		return err
	}
	*buf = b
	return put(b[length:])
}

// fit makes a name one that can be sent.
func fit(name string) string {
	name = clean(name)
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	if name == "" {
		return "-"
	}
	return name
}

func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func cleanAll(texts []string) []string {
	if len(texts) == 0 {
		return []string{""} // as the original sends nothing
	}
	out := make([]string, len(texts))
	for i := range texts {
		out[i] = clean(texts[i])
	}
	return out
}

// history makes ids of past times.
type history struct {
	node [6]byte
	last time.Time
}

// historicID returns an id of that time, or a little later: never the same twice.
func (c *Client) historicID(at time.Time) wire.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.history
	at = at.Round(0)
	switch {
	case at.After(h.last):
	case h.last.Sub(at) > time.Second: // the clock was set, and so were times that are reckoned from it
		h.node = wire.RandomNode()
	default:
		at = h.last.Add(1)
	}
	h.last = at
	return wire.NewID(at, h.node)
}

// service of what the agent says of its own records.
const ownService = "agent"

// note is word of records that were lost. It stays, with its id, until it is
// acknowledged, so that a server gets it once.
type note struct {
	first, last uint64
	id          wire.ID
	tried       bool
}

// outgoing turns what the spool has into frames for a server. One goroutine uses it.
type outgoing struct {
	c     *Client
	r     *spool.Reader
	notes []*note
	// tried is the last record that was ever begun to be written to a server: its id
	// and those before it are not good for an original any more.
	tried    uint64
	view     wire.View
	commands context.Context // of commands: Run's
	said     string          // why the session takes nothing
}

// mark is a frame that was made: which record it is, and its id.
type mark struct {
	seq uint64
	id  wire.ID
	end int64 // bytes of the connection up to its end
}

func (c *Client) outgoing() *outgoing {
	return &outgoing{c: c, r: c.spool.NewReader(), tried: c.spool.Recovered()}
}

// rewind goes back to what was not acknowledged.
func (o *outgoing) rewind() {
	o.r.Rewind()
	acked := o.c.spool.Acked()
	for len(o.notes) > 0 && o.notes[0].last <= acked {
		o.notes = o.notes[1:]
	}
}

// append appends the next frame, if there is one.
func (o *outgoing) append(b []byte, t *Target, original bool) ([]byte, mark, bool) {
	for {
		rec, ok := o.r.Try()
		if !ok {
			return b, mark{}, false
		}
		if rec.Lost > 0 {
			b, m := o.lost(b, t, original, rec)
			return b, m, true
		}
		again := original && rec.Seq <= o.tried
		o.tried = max(o.tried, rec.Seq)
		err := wire.Scan(rec.Data, &o.view)
		var id wire.ID
		if err == nil {
			if id = o.view.ID; again {
				id = o.c.ids.Next()
			}
			b, err = o.frame(b, rec.Data, id, t, original)
		}
		if err != nil { // written by another version
			o.c.opt.Log.Error("a record of the spool cannot be sent and is left out", "record", rec.Seq, "err", err)
			continue
		}
		return b, mark{seq: rec.Seq, id: id}, true
	}
}

// frame appends the frame of a payload of the spool, which is in o.view, too.
func (o *outgoing) frame(b, payload []byte, id wire.ID, t *Target, original bool) ([]byte, error) {
	const items = 1 + 2 + 2 + 36 // where data begins, in what we write
	if n := len(o.view.Data); o.view.Verb == wire.Log && id == o.view.ID && n == 2 && payload[items] == 0x92 {
		// As good as all records are such: their texts stay as they are.
		f := wire.Frame{Verb: wire.Log, ID: id, Data: wire.Texts(t.Group, t.Server)}
		if len(payload)+f.Size() <= wire.MaxAccepted {
			at := len(b)
			b, err := f.Append(b)
			if err != nil {
				return b, err
			}
			b[at+length+items] = 0x94
			b = append(b, payload[items+1:]...)
			binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-length))
			return b, nil
		}
	}
	f := o.view.Frame()
	f.ID = id
	return address(f, t, original).AppendLarge(b)
}

// address completes a frame of the spool. An original takes no more of an answer than
// output and errors.
func address(f wire.Frame, t *Target, original bool) wire.Frame {
	data := append(make([]wire.Item, 0, 2+len(f.Data)), wire.Text(t.Group), wire.Text(t.Server))
	data = append(data, f.Data...)
	if original && f.Verb == wire.Response && len(data) > 5 {
		if exit := data[5].Text; exit != "0" {
			data[4] = wire.List(append(append([]string(nil), data[4].List...), "exit status "+exit)...)
		}
		data = data[:5]
	}
	f.Data = data
	return f
}

// lost appends word of the records that are missing.
func (o *outgoing) lost(b []byte, t *Target, original bool, rec spool.Record) ([]byte, mark) {
	first := rec.Seq - rec.Lost + 1
	var n *note
	for _, old := range o.notes {
		if old.first <= first && first <= old.last {
			n = old
		}
	}
	switch {
	case n == nil:
		n = &note{first: first, last: rec.Seq, id: o.c.ids.Next()}
		o.notes = append(o.notes, n)
	case original && n.tried:
		n.id = o.c.ids.Next()
	}
	n.tried = true
	if n.last < rec.Seq { // the rest is word of its own
		o.r.Seek(n.last + 1)
	}
	count := n.last - n.first + 1
	text := fmt.Sprintf("%d records were dropped: there was no room to keep them until a StreamServer could be reached", count)
	f := wire.LogLine(n.id, t.Group, t.Server, ownService, text)
	out, err := f.Append(b)
	if err != nil { // texts and names are bounded
		o.c.opt.Log.Error("records were dropped, and that cannot be said", "records", count, "err", err)
	}
	return out, mark{seq: min(n.last, rec.Seq), id: n.id}
}
