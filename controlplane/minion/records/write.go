package records

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// maxRows bounds one transaction: what is committed together is sent again together.
const maxRows = 20_000

// measurement is a row of telemetries.
type measurement struct {
	id, server wire.ID
	label      string
	data       []byte // JSON
	at         time.Time
}

// writer is a database's way to take rows in. Its calls are serialised.
type writer interface {
	// insert commits rows. Those that are there are passed over.
	insert(ctx context.Context, lines []minion.Entry, measurements []measurement) error
	close() error
}

// Write keeps entries; see minion.Sink. It is safe for concurrent use.
//
// An entry that the database refuses for what it is, which none should, is logged and
// left out, as it would hold up all others for ever.
func (d *DB) Write(ctx context.Context, entries []minion.Entry) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.closed.Load() {
		return ErrClosed
	}
	begun := time.Now()
	for len(entries) > 0 {
		part := entries[:min(len(entries), maxRows)]
		entries = entries[len(part):]
		if err := d.writePart(ctx, part); err != nil {
			return err
		}
	}
	d.meters.took.Observe(time.Since(begun).Seconds())
	return nil
}

func (d *DB) writePart(ctx context.Context, entries []minion.Entry) error {
	lines := make([]minion.Entry, 0, len(entries))
	var measurements []measurement
	for i := range entries {
		switch e := &entries[i]; e.Verb {
		case wire.Log:
			lines = append(lines, *e)
		case wire.Telemetry:
			measurements = append(measurements, measurementOf(e))
		}
	}
	if len(lines)+len(measurements) > 0 {
		if err := d.insertAll(ctx, lines, measurements); err != nil {
			return err
		}
		d.meters.lines.Add(float64(len(lines)))
		d.meters.measurements.Add(float64(len(measurements)))
		d.wakeLines()
	}
	return nil
}

// insertAll inserts rows, in ever smaller parts if one of them is refused.
func (d *DB) insertAll(ctx context.Context, lines []minion.Entry, measurements []measurement) error {
	err := d.in.insert(ctx, lines, measurements)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case d.pg == nil || !refusedData(err):
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, d.name, err)
	}
	if len(lines)+len(measurements) == 1 {
		var id, server any
		if len(lines) == 1 {
			id, server = lines[0].ID, lines[0].Server
		} else {
			id, server = measurements[0].id, measurements[0].server
		}
		d.meters.refused.Inc()
		d.log.Error("the database refuses a record, which is left out", "id", id, "server", server, "error", err)
		return nil
	}
	l, m := len(lines)/2, len(measurements)/2
	if len(lines) == 1 { // and measurements
		l = 1
	}
	if err := d.insertAll(ctx, lines[:l], measurements[:m]); err != nil {
		return err
	}
	return d.insertAll(ctx, lines[l:], measurements[m:])
}

// namespace makes ids of servers whose id is not a UUID, which the original's tables
// have no room for: version 5 of RFC 9562. Their own id is in servers.aliases.
var namespace = wire.ID{0x7c, 0x5b, 0x1f, 0x0e, 0x3a, 0x52, 0x4d, 0x60, 0x9a, 0x11, 0x5e, 0xe7, 0x40, 0x6d, 0x69, 0x6e}

// ServerID is the id under which a server's rows are kept: its own, if that is a UUID.
func ServerID(server string) wire.ID {
	if id, err := wire.ParseID(server); err == nil {
		return id
	}
	h := sha1.New()
	h.Write(namespace[:])
	h.Write([]byte(server))
	id := wire.ID(h.Sum(nil)[:16])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

// measurementOf keeps what one text of JSON has as that, and anything else as a list
// of texts, as the original does.
func measurementOf(e *minion.Entry) measurement {
	m := measurement{id: e.ID, server: ServerID(e.Server), label: database.Storable(e.Service), at: timeOf(e.ID)}
	if len(e.Values) == 1 {
		if text, ok := strings.CutPrefix(e.Values[0], wire.JSON); ok && json.Valid([]byte(text)) {
			m.data = withoutNUL([]byte(text))
			return m
		}
	}
	values := make([]string, len(e.Values))
	for i, v := range e.Values {
		values[i] = database.Storable(v)
	}
	m.data, _ = json.Marshal(values) // texts always can be
	return m
}

// withoutNUL replaces the escape of a character that PostgreSQL has no text for.
func withoutNUL(b []byte) []byte {
	if !bytes.Contains(b, []byte(`\u0000`)) {
		return b
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch {
		case bytes.HasPrefix(b[i:], []byte(`\u0000`)):
			out = append(out, `\ufffd`...)
			i += 5
		case b[i] == '\\' && i+1 < len(b):
			out = append(out, b[i], b[i+1])
			i++
		default:
			out = append(out, b[i])
		}
	}
	return out
}

// patiently calls do until it succeeds, fails for good, or outage is over.
func patiently(ctx context.Context, outage time.Duration, again func(error) bool, do func() error) error {
	end := time.Now().Add(outage)
	for pause := 25 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := do()
		if err == nil || !again(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}
