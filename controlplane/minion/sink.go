package minion

import "context"

// Most that a Sink is given at a time.
const (
	sinkBytes   = 4 << 20
	sinkRecords = 10_000
)

// entryWriter is the goroutine that gives a Sink its entries.
type entryWriter struct {
	q       *queue
	sink    Sink
	trouble func(q *queue, err error, say bool)
	meter   *meters
}

// run gives the sink what the queue gets until that is closed and empty, or hurry ends.
func (w *entryWriter) run(hurry context.Context) {
	var parts []*part
	var all []Entry
	for {
		clear(parts)
		parts = w.q.take(parts[:0], sinkBytes, sinkRecords)
		if len(parts) == 0 {
			return
		}
		entries := parts[0].entries
		if len(parts) > 1 {
			clear(all)
			all = all[:0]
			for _, p := range parts {
				all = append(all, p.entries...)
			}
			entries = all
		}
		if !persist(hurry, w.q, w.trouble, func() error { return w.sink.Write(hurry, entries) }) {
			w.q.giveUp(parts)
			return
		}
		for _, p := range parts {
			w.meter.written.WithLabelValues(w.q.label).Add(float64(p.bytes))
			p.entries = nil
		}
		w.q.done(parts)
	}
}

// responseSink gives responses to whoever has asked for them.
type responseSink struct{ s *Server }

func (r responseSink) Write(ctx context.Context, entries []Entry) error {
	take := r.s.hooks().responses
	for _, e := range entries {
		if take == nil {
			r.s.drop("response", 1)
			continue
		}
		if err := take(ctx, Agent{Group: e.Group, Server: e.Server}, *e.result); err != nil {
			return err
		}
	}
	return nil
}
