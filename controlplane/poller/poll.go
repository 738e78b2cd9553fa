package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
)

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Run polls until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { s.renew(ctx) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if free := cap(s.workers) - len(s.workers); free > 0 {
			taken, err := s.Store.TakePollers(ctx, free, lease)
			if err != nil && ctx.Err() == nil {
				s.Log.Error("cannot see which pollers are due", "error", err)
			}
			for _, p := range taken {
				s.workers <- struct{}{}
				all.Go(func() {
					defer func() { <-s.workers }()
					s.poll(ctx, p)
				})
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// renew keeps the leases of the polls under way until ctx ends. A poll whose lease
// is gone, as its poller was changed, removed or taken over, counts no more and is
// ended. While the database is away nobody can take over, and the polls go on.
func (s *Service) renew(ctx context.Context) {
	ticker := time.NewTicker(lease / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		var under []store.Poller
		for _, p := range s.held {
			under = append(under, p.of)
		}
		s.mu.Unlock()
		if len(under) == 0 {
			continue
		}
		lost, err := s.Store.RenewPollers(ctx, under, lease)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("cannot renew the leases of polls under way", "error", err)
		}
		s.mu.Lock()
		for _, p := range lost {
			if held, ok := s.held[p.Lease]; ok {
				held.end()
			}
		}
		s.mu.Unlock()
	}
}

// hold has a poller's lease renewed until release is called; ctx ends if it is lost.
func (s *Service) hold(ctx context.Context, p store.Poller) (held context.Context, release func()) {
	held, end := context.WithCancel(ctx)
	s.mu.Lock()
	s.held[p.Lease] = poll{p, end}
	s.mu.Unlock()
	return held, func() {
		s.mu.Lock()
		delete(s.held, p.Lease)
		s.mu.Unlock()
		end()
	}
}

// poll polls once and stores how it went.
func (s *Service) poll(ctx context.Context, p store.Poller) {
	log := s.Log.With("poller", p.ID, "kind", p.Kind, "chassis", p.Chassis)
	polling, release := s.hold(ctx, p)
	defer release()
	begun := time.Now()
	report := s.try(polling, p)
	took, result := time.Since(begun), resultOK
	save, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if ctx.Err() != nil { // the server stops: another takes the poller
		if err := s.Store.ReleasePoller(save, p); err != nil {
			log.Error("cannot give back a poller", "error", err)
		}
		return
	}
	held, err := s.Store.ReportPoll(save, p, report)
	switch {
	case err != nil || !held:
		result = resultDropped
	case report.Error != "":
		result = resultFailed
	}
	s.meters.observe(p.Kind, result, took)
	switch {
	case err != nil:
		log.Error("cannot store what a poller has read", "error", err)
	case !held:
		log.Debug("a poll's result is dropped: the poller has been changed or taken over")
	case report.Error != "" && p.Failures == 0:
		log.Warn("poller fails", "error", report.Error)
	case report.Error == "" && p.Failures > 0:
		log.Info("poller works again", "failures", p.Failures)
	}
}

func (s *Service) try(ctx context.Context, p store.Poller) store.Poll {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	period := seconds(p.Period)
	var rules []Rule
	err := json.Unmarshal(p.Rules, &rules)
	var compiled []rule
	if err == nil {
		compiled, err = compile(p.Kind, rules)
	}
	m := recall(p.State)
	var result any
	var r reading
	if err == nil {
		result, r, err = s.read(ctx, p, &m)
	}
	out := store.Poll{Next: period + jitter(period)}
	if err == nil {
		out.Result, err = json.Marshal(result)
	}
	if err == nil {
		thinking, cancel := context.WithTimeout(ctx, ruleTime)
		defer cancel()
		if out.Raise, out.Clear, err = evaluate(thinking, p.Kind, compiled, r, &m); err != nil && ctx.Err() == nil {
			err = fmt.Errorf("its rules take more than %v for what was read: use simpler regular expressions", ruleTime)
		}
	}
	if err == nil {
		m.Power = r.power
		out.State = m.store()
		out.Clear = append(out.Clear, store.Alert{Rule: Unreachable, Message: "answers again"})
		return out
	}
	wait := period
	for range min(p.Failures, 10) {
		wait = min(2*wait, max(maxBackoff, period))
	}
	out = store.Poll{Error: cut(err.Error(), 1000), Next: wait + jitter(wait)}
	if p.Failures+1 >= failuresToAlert {
		out.Raise = []store.Alert{{Rule: Unreachable, Severity: power.Warning, Message: out.Error}}
	}
	return out
}

// jitter keeps pollers of one period from being due all at once.
func jitter(d time.Duration) time.Duration { return rand.N(d/10+1) - d/20 }
