package minion

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Bounds of a batch: what is read at a time is handed to the destinations at once.
const (
	batchRecords = 1000
	batchBytes   = 256 << 10
)

// Bounds of what an agent may name.
const (
	maxServices   = 256 // of which repeats are counted, of one connection
	maxService    = 255 // bytes of a service or label
	entryOverhead = 200 // bytes of an Entry beside its texts
)

// errForeign is of a frame that names another group or server than was authenticated.
var errForeign = errors.New("the frame is not from who has authenticated")

// intake turns the frames of one agent into parts for destinations.
type intake struct {
	s      *Server
	g      *group
	server string
	field  string // server, as a field of a line
	// exact: the agent acknowledges. Its ids are remembered, what it sends again is
	// known, and repeats are counted within a batch only, as what is acknowledged must
	// be kept and not be a count in memory.
	exact    bool
	fresh    int // records since the connection began; what is sent again comes first
	services map[string]*service
	batch    *batch
	now      time.Time
}

// service is the log lines of one service of one agent.
type service struct {
	name  string
	field string
	rule
	last    []byte // the last message that was kept
	any     bool   // there is one
	repeats int    // of it, since
	lastID  wire.ID
}

func (in *intake) who() identity { return identity{in.g.id, in.server} }

func (s *Server) newIntake(g *group, server string) *intake {
	return &intake{s: s, g: g, server: server, field: escaped(server), services: map[string]*service{}}
}

// add takes a log, telemetry or response frame. Its error says that the agent breaks
// the protocol.
func (in *intake) add(v *wire.View, size int) error {
	if len(v.Data) < 2 || v.Data[0].IsList || v.Data[1].IsList {
		return fmt.Errorf("%s frame %s without group and server", v.Verb, v.ID)
	}
	if !in.isSelf(v) {
		return fmt.Errorf("%s frame %s of group %.64q, server %.64q: %w", v.Verb, v.ID, v.Data[0].Text, v.Data[1].Text, errForeign)
	}
	b := in.current()
	b.records++
	b.last = v.ID
	if in.exact {
		b.ids = append(b.ids, v.ID)
		if in.fresh++; in.fresh <= maxRemembered {
			if t := in.s.past.again(in.who(), v.ID); t != nil {
				b.pending.Add(1)
				t.whenDrained(b.partDone)
				in.s.meter.again.Inc()
				return nil
			}
		}
	}
	switch v.Verb {
	case wire.Log:
		return in.log(v)
	case wire.Telemetry:
		return in.telemetry(v)
	}
	return in.response(v, size)
}

// current returns the batch that is being made.
func (in *intake) current() *batch {
	if in.batch == nil {
		in.batch = &batch{}
		in.batch.pending.Store(1) // until all parts are put
		in.now = time.Now()
	}
	return in.batch
}

func (in *intake) isSelf(v *wire.View) bool {
	return string(v.Data[0].Text) == in.g.id &&
		(string(v.Data[1].Text) == in.server || in.g.id == ChassisGroup && bytes.EqualFold(v.Data[1].Text, []byte(in.server)))
}

// log takes [group, server, service, message]. More texts are more of the message, as
// nothing else is known of them.
func (in *intake) log(v *wire.View) error {
	if len(v.Data) < 4 || v.Data[2].IsList {
		return fmt.Errorf("log frame %s: want group, server, service and message", v.ID)
	}
	st := in.service(v.Data[2].Text)
	if st.to == nil {
		in.s.drop("service", 1)
		return nil
	}
	message := joined(v.Data[3:])
	if !st.cull {
		in.line(st, v.ID, message)
		return nil
	}
	if st.any && bytes.Equal(st.last, message) {
		st.repeats++
		st.lastID = v.ID
		in.s.meter.repeated.Inc()
		return nil
	}
	in.repeats(st)
	st.last, st.any = append(st.last[:0], message...), true
	in.line(st, v.ID, message)
	return nil
}

// joined returns the text of items.
func joined(items []wire.ViewItem) []byte {
	if len(items) == 1 && !items[0].IsList {
		return items[0].Text
	}
	var b []byte
	for _, item := range items {
		for _, text := range append(item.List, item.Text)[:max(len(item.List), 1)] {
			b = append(append(b, text...), ' ')
		}
	}
	return bytes.TrimSuffix(b, []byte{' '})
}

func (in *intake) service(name []byte) *service {
	name = name[:min(len(name), maxService)]
	if st := in.services[string(name)]; st != nil {
		return st
	}
	short := clean(name)
	st := &service{name: short, field: escaped(short), rule: in.g.service(short)}
	if len(in.services) >= maxServices {
		st.cull = false
		return st
	}
	in.services[string(name)] = st
	if st.to == nil {
		in.s.c.Log.Warn("log lines of a service are dropped: its group has neither that service nor a default one", "group", in.g.id, "server", in.server, "service", short)
	}
	return st
}

// repeats tells how often the last message came again, in the original's words and
// under the id of the last time.
func (in *intake) repeats(st *service) {
	if st.repeats == 0 {
		return
	}
	message := append(strconv.AppendInt([]byte("Previous message repeated "), int64(st.repeats), 10), " times."...)
	if st.repeats == 1 && in.exact {
		message = st.last // as long, and says more
	}
	st.repeats = 0
	in.line(st, st.lastID, message)
}

// settle tells of all repeats, for those who may not wait for the next message.
func (in *intake) settle() {
	for _, st := range in.services {
		if st.repeats > 0 {
			in.current()
			in.repeats(st)
		}
	}
}

// line adds a log line to the part of its destination.
func (in *intake) line(st *service, id wire.ID, message []byte) {
	if in.exact {
		if ids := in.s.known.of(st.to, in.now); ids != nil {
			if _, again := ids[id]; again {
				in.s.meter.again.Inc()
				return
			}
		}
	}
	p := in.part(st.to)
	p.records++
	if st.to.lines {
		before := len(p.lines)
		p.lines = appendLine(p.lines, id, in.field, st.field, message)
		in.grow(p, len(p.lines)-before)
		return
	}
	p.entries = append(p.entries, Entry{
		Verb: wire.Log, ID: id, Group: in.g.id, Server: in.server, Service: st.name, Message: clean(message),
		At: happened(id, in.now), Received: in.now,
	})
	in.grow(p, len(message)+entryOverhead)
}

// telemetry takes [group, server, label, value…] or [group, server, "JSON:…"].
func (in *intake) telemetry(v *wire.View) error {
	if len(v.Data) < 3 || v.Data[2].IsList {
		return fmt.Errorf("telemetry frame %s: want group, server, label and values", v.ID)
	}
	label, values := v.Data[2].Text, v.Data[3:]
	if len(values) == 0 { // it has no label
		label, values = nil, v.Data[2:]
	}
	name := clean(label[:min(len(label), maxService)])
	to := in.g.label(name)
	if to == nil {
		in.s.drop("label", 1)
		return nil
	}
	p := in.part(to)
	p.records++
	if to.lines {
		before := len(p.lines)
		p.lines = appendHead(p.lines, v.ID, in.field, escaped(name))
		for i, item := range values {
			if i > 0 {
				p.lines = append(p.lines, '\t')
			}
			p.lines = appendEscaped(p.lines, joined([]wire.ViewItem{item}), false)
		}
		p.lines = append(p.lines, '\n')
		in.grow(p, len(p.lines)-before)
		return nil
	}
	e := Entry{Verb: wire.Telemetry, ID: v.ID, Group: in.g.id, Server: in.server, Service: name, At: happened(v.ID, in.now), Received: in.now}
	size := entryOverhead
	for _, item := range values {
		texts := item.List
		if !item.IsList {
			texts = [][]byte{item.Text}
		}
		for _, text := range texts {
			e.Values = append(e.Values, clean(text))
			size += len(text) + 16
		}
	}
	p.entries = append(p.entries, e)
	in.grow(p, size)
	return nil
}

// response takes what wire.ResultOf reads.
func (in *intake) response(v *wire.View, size int) error {
	r, err := wire.ResultOf(v.Frame())
	if err != nil {
		return err
	}
	for _, list := range [][]string{r.Stdout, r.Stderr} {
		for i := range list {
			list[i] = clean([]byte(list[i]))
		}
	}
	p := in.part(in.s.responses)
	p.records++
	p.entries = append(p.entries, Entry{Verb: wire.Response, ID: v.ID, Group: in.g.id, Server: in.server, Received: in.now, result: &r})
	in.grow(p, entryOverhead+size)
	return nil
}

func (in *intake) grow(p *part, bytes int) {
	p.bytes += bytes
	in.batch.bytes += bytes
}

func (in *intake) part(to *queue) *part {
	for _, p := range in.batch.parts {
		if p.to == to {
			return p
		}
	}
	p := &part{to: to, batch: in.batch, durable: in.exact}
	if to.lines {
		p.lines = *buffers.Get().(*[]byte)
	}
	in.batch.parts = append(in.batch.parts, p)
	return p
}

// full reports whether the batch is large enough to be handed on.
func (in *intake) full() bool {
	return in.batch != nil && (in.batch.records >= batchRecords || in.batch.bytes >= batchBytes)
}

// finish returns the batch, registered as the next of t, or nil if there is none.
func (in *intake) finish(t *tracker) *batch {
	if in.exact {
		in.settle()
	}
	b := in.batch
	if b == nil {
		return nil
	}
	in.batch = nil
	t.register(b)
	return b
}

// hand gives a batch to the destinations, and waits while they or the connection have
// too much already.
func (s *Server) hand(b *batch) error {
	s.meter.records.Add(float64(b.records))
	parts := b.parts
	err := b.tracker.admit(s.working, b)
	b.pending.Add(int32(len(parts)))
	for i := 0; i < len(parts) && err == nil; i++ {
		if err = parts[i].to.put(s.working, parts[i]); err != nil {
			parts = parts[i:]
		}
	}
	if err != nil { // the server has ended
		for _, p := range parts {
			if !p.durable {
				s.drop("shutdown", p.records)
			}
		}
		return err
	}
	b.partDone()
	return nil
}
