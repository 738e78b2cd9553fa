package backbone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

var errSuperseded = errors.New("a newer set of apps has come")

// step is the action that is being done.
type step struct {
	action
	stop        context.CancelCauseFunc
	done, total int64 // of the package
	logged      time.Time
}

// work makes attempts, and looks at the apps, until ctx ends.
func (s *Slave) work(ctx context.Context) {
	for {
		s.mu.Lock()
		var retry <-chan time.Time
		if !s.retryAt.IsZero() {
			retry = time.After(time.Until(s.retryAt))
		}
		s.mu.Unlock()
		act := true
		select {
		case <-ctx.Done():
			return
		case <-s.rearm:
			continue
		case <-s.kick:
		case <-retry:
		case <-s.look:
			s.mu.Lock()
			// What differs in a state of ok has changed by itself.
			act = s.state != wire.StateRetrying && s.state != wire.StateFailed
			s.mu.Unlock()
		}
		s.survive("an attempt", func() { s.pass(ctx, act) })
	}
}

// pass looks at the apps and, if told to act, does what has to be done.
func (s *Slave) pass(ctx context.Context, act bool) {
	s.mu.Lock()
	s.working = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.working, s.step = false, nil
		s.mu.Unlock()
	}()
	serial, tried := -1, map[action2]bool{}
	for ctx.Err() == nil {
		states, err := s.c.Apps.Installed(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if s.want != nil && s.want.serial != serial {
			serial = s.want.serial
			clear(tried)
			select { // this is what it was about
			case <-s.kick:
			default:
			}
		}
		next := s.next(states, err, act, tried)
		s.mu.Unlock()
		if next == nil {
			return
		}
		s.do(ctx, next)
	}
}

// action2 is an action as far as it is not to be repeated in one attempt.
type action2 struct {
	kind kind
	app  string
}

// next returns what is to be done, or ends the pass and says how it went. s.mu is held.
func (s *Slave) next(states []app.State, err error, act bool, tried map[action2]bool) *step {
	if err != nil {
		s.errs[""] = err.Error()
	} else {
		delete(s.errs, "")
		s.observe(states)
	}
	plan := s.plan(s.want, states)
	switch {
	case err == nil && len(plan) == 0:
		s.settle()
		return nil
	case !act:
		s.emit()
		return nil
	}
	// The attempts of this set may have been counted to the end by a set that is the
	// same and has come meanwhile; that one begins anew.
	if s.want != nil && s.told != s.want.serial || s.state != wire.StateConverging {
		s.converging()
	}
	if err == nil {
		for _, a := range plan {
			key := action2{a.kind, a.app}
			if tried[key] {
				continue
			}
			tried[key] = true
			s.step = &step{action: a, logged: time.Now()}
			return s.step
		}
		for _, a := range plan { // all was tried
			if s.errs[a.app] == "" {
				s.errs[a.app] = fmt.Sprintf("app %s: to %s it has changed nothing: %s", a.app, a.kind, s.lacks(a))
			}
		}
	}
	s.fail()
	return nil
}

// lacks says what an action should have changed.
func (s *Slave) lacks(a action) string {
	switch a.kind {
	case configure:
		return "it does not show the configuration that was set"
	case set:
		return "services are not as wanted"
	case remove:
		return "it is still there"
	}
	return "its version is another one"
}

// converging begins an attempt. s.mu is held.
func (s *Slave) converging() {
	s.attempt++
	s.state, s.retryAt = wire.StateConverging, time.Time{}
	if s.want != nil {
		s.told = s.want.serial
	}
	s.emit()
}

// settle says that all is as wanted. s.mu is held.
func (s *Slave) settle() {
	if s.state != wire.StateOK {
		s.c.Log.Info("the apps are as wanted", "apps", len(s.apps), "attempts", s.attempt)
	}
	s.state, s.attempt, s.failures, s.retryAt, s.ended = wire.StateOK, 0, 0, time.Time{}, time.Now()
	clear(s.errs)
	s.emit()
}

// fail ends an attempt without success. s.mu is held.
func (s *Slave) fail() {
	s.failures++
	s.ended = time.Now()
	if s.attempt >= s.c.MaxAttempts {
		s.state, s.retryAt = wire.StateFailed, time.Time{}
		s.c.Log.Error("the apps are not as wanted, and there is no further attempt before the next set_config", "attempts", s.attempt, "reason", s.reason())
	} else {
		pause := s.pause()
		s.state, s.retryAt = wire.StateRetrying, s.ended.Add(pause)
		s.c.Log.Warn("the apps are not as wanted yet", "attempt", s.attempt, "again_in", pause.Round(time.Millisecond).String(), "reason", s.reason())
	}
	s.emit()
}

// pause is the time to the next attempt: it doubles, and half of it is random, so that
// a thousand hosts do not ask the same server for a package in the same second.
func (s *Slave) pause() time.Duration {
	d := s.c.RetryMax
	if s.failures < 20 {
		d = min(d, s.c.RetryMin<<max(s.failures-1, 0))
	}
	return d/2 + rand.N(d/2+1)
}

// do does one action, and remembers how it went.
func (s *Slave) do(ctx context.Context, st *step) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	st.stop = cancel
	// It may have been overtaken before it could be stopped.
	if st.kind == install && s.want != nil && (s.want.specs[st.app].Name == "" || source(s.want.specs[st.app]) != source(st.spec)) {
		cancel(errSuperseded)
	}
	s.mu.Unlock()
	log := s.c.Log.With("app", st.app, "version", st.spec.Version)
	log.Info("app: "+string(st.kind), "url", bare(st.spec.URL))
	began := time.Now()
	err := s.apply(ctx, st)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step = nil
	switch {
	case errors.Is(context.Cause(ctx), errSuperseded) && err != nil:
		log.Info("app: installing it was given up, as something else is wanted now", "after", time.Since(began).Round(time.Millisecond).String())
	case err != nil && ctx.Err() != nil: // the agent ends
		log.Info("app: given up", "step", st.kind, "err", err)
	case err != nil:
		s.errs[st.app] = err.Error()
		log.Error("app: could not "+string(st.kind), "err", err)
	default:
		delete(s.errs, st.app)
		switch st.kind {
		case install:
			s.made[st.app] = made(st.spec)
			s.save()
		case remove:
			delete(s.made, st.app)
			s.save()
		}
		log.Info("app: done", "step", st.kind, "took", time.Since(began).Round(time.Millisecond).String())
	}
}

// apply survives panics: a disk may be being erased beside it.
func (s *Slave) apply(ctx context.Context, st *step) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.c.Log.Error("an app's work panicked", "app", st.app, "step", st.kind, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("app %s: %s panicked: %v", st.app, st.kind, p)
		}
	}()
	a := s.c.Apps
	switch st.kind {
	case remove:
		return a.Remove(ctx, st.app)
	case install:
		return a.Install(ctx, st.spec, func(done, total int64) { s.progress(st, done, total) })
	case configure:
		return a.Configure(ctx, st.app, st.spec.Config)
	}
	return a.Set(ctx, st.app, st.spec.Running, st.spec.Services)
}

// progress records how much of a package is there, and says so now and then.
func (s *Slave) progress(st *step, done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.done, st.total = done, total
	if time.Since(st.logged) < s.c.Progress {
		return
	}
	st.logged = time.Now()
	s.c.Log.Info("app: installing", "app", st.app, "version", st.spec.Version, "bytes", done, "of", total)
	s.emit()
}

// reason is all errors in a sentence. s.mu is held.
func (s *Slave) reason() string {
	names := slices.Sorted(maps.Keys(s.errs))
	if len(names) == 0 {
		return ""
	}
	text := s.errs[names[0]]
	if len(names) > 1 {
		text += fmt.Sprintf("; and %d more", len(names)-1)
	}
	return text
}
