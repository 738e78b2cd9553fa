package erase

import (
	"context"
	"sync"
)

// span is n bytes at off.
type span struct{ off, n int64 }

func (s span) end() int64 { return s.off + s.n }

func length(spans []span) int64 {
	var n int64
	for _, s := range spans {
		n += s.n
	}
	return n
}

// each does work on every piece of spans, several at a time, and calls done from
// the calling goroutine for every piece that went well. newWorker is called once
// for each goroutine. It returns when nothing runs any more: of several errors
// the one with the lowest offset, else the context's.
func (j *job) each(ctx context.Context, spans []span, newWorker func() func(span) error, done func(n int64)) error {
	type result struct {
		span
		err error
	}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	pieces := make(chan span)
	results := make(chan result)
	go func() {
		defer close(pieces)
		for _, s := range spans {
			for s.n > 0 {
				p := span{s.off, min(s.n, piece)}
				select {
				case pieces <- p:
				case <-inner.Done():
					return
				}
				s.off += p.n
				s.n -= p.n
			}
		}
	}()
	var workers sync.WaitGroup
	for range j.depth {
		workers.Go(func() {
			work := newWorker()
			for p := range pieces {
				results <- result{p, work(p)}
			}
		})
	}
	go func() {
		workers.Wait()
		close(results)
	}()
	var first *result
	for r := range results {
		if r.err != nil {
			stop()
			if first == nil || r.off < first.off {
				first = &r
			}
			continue
		}
		done(r.n)
		j.advance(r.n)
	}
	if first != nil {
		return first.err
	}
	return ctx.Err()
}
