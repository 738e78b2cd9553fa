package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/minion"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Records keeps agents' records.
type Records interface {
	// Ingest takes payloads of frames that are a chassis' own, and returns nil when they
	// are kept durably. An error that wraps minion.ErrMalformed is the agent's fault.
	Ingest(ctx context.Context, chassis string, payloads [][]byte) error
	// IngestLog takes a line of the agent's own log.
	IngestLog(ctx context.Context, chassis, message string, at time.Time) error
	// Err says why nothing is kept now; nil: it is.
	Err() error
}

// recordsPatience is how long a session waits for records to be kept: what else the
// agent says waits as long.
const recordsPatience = 2 * time.Second

// takeRecords returns nil, and so acknowledges, only what is kept.
func (s *Session) takeRecords(ctx context.Context, m teeth.Message) error {
	if s.g.c.Records == nil {
		return &teeth.MethodError{Msg: "this server keeps no records"}
	}
	if !s.approved.Load() {
		return &teeth.MethodError{Msg: fmt.Sprintf("chassis %s is not approved", s.chassis)}
	}
	var p teeth.RecordsParams
	if err := teeth.DecodeParams(m.Method, m.Params, &p, "frames"); err != nil {
		return err
	}
	payloads, err := minion.Payloads(p.Frames)
	if err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, recordsPatience)
		defer cancel()
		err = s.g.c.Records.Ingest(ctx, s.chassis, payloads)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, minion.ErrMalformed):
		return &teeth.MethodError{Msg: err.Error()}
	}
	s.log.Warn("records are not kept; the agent has them still", "error", err)
	return &teeth.MethodError{Msg: "the records are not kept yet: send them again later"}
}

// recordLog puts a line of an agent's log among its records, too. It is kept as an
// event already: what cannot be done now is not done.
func (s *Session) recordLog(ctx context.Context, e store.Event) {
	r := s.g.c.Records
	if r == nil || s.records || !s.approved.Load() || r.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, recordsPatience)
	defer cancel()
	if err := r.IngestLog(ctx, s.chassis, lineOf(e), e.Time); err != nil {
		s.log.Warn("a log message is an event and no record", "error", err)
	}
}

// lineOf is a log message with its fields as text.
func lineOf(e store.Event) string {
	var fields map[string]any
	if json.Unmarshal(e.Fields, &fields) != nil {
		return e.Message
	}
	var b strings.Builder
	b.WriteString(e.Message)
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		v, ok := fields[k].(string)
		if !ok {
			raw, _ := json.Marshal(fields[k]) // it was JSON
			v = string(raw)
		}
		if v == "" || strings.ContainsAny(v, " \t\n\"=") {
			v = fmt.Sprintf("%q", v)
		}
		fmt.Fprintf(&b, " %s=%s", k, v)
	}
	return b.String()
}
