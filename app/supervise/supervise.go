// Package supervise keeps programs running: it starts them, starts them again when they
// end, later the more often that happens, and stops them.
package supervise

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/sandbox"
)

// Process is one run of a program. *sandbox.Process is one.
type Process interface {
	Signal(unix.Signal)
	Kill()
	Done() <-chan struct{}
	Exit() sandbox.Exit // once Done is closed
}

// Config of a service. Times that are 0 have defaults.
type Config struct {
	Start        func() (Process, error)
	Restart      manifest.Restart
	StopSignal   unix.Signal   // SIGTERM
	StopTimeout  time.Duration // 10 s until SIGKILL
	ReloadSignal unix.Signal   // 0: Reload restarts
	// Backoff is how long to wait before the first restart in a row, 1 s; it doubles
	// up to MaxBackoff, 1 min. A run of that length ends the row.
	Backoff, MaxBackoff time.Duration
	// Settle is how long a program must run to be called running, after it has
	// failed: 5 s.
	Settle time.Duration
	// Ended is told how a run ended that nobody asked to, and when the next begins; 0
	// if there is none.
	Ended func(e sandbox.Exit, again time.Duration)
}

// lost is how long a killed program may take to end.
const lost = 10 * time.Second

// Service is a program that is to run, or not. It is safe for concurrent use.
type Service struct {
	c Config

	mu       sync.Mutex
	stop     chan struct{} // closed to stop; nil while the service is off
	off      chan struct{} // closed when the loop has ended
	proc     Process
	since    time.Time
	last     *sandbox.Exit
	restarts int
	row      int  // failures in a row
	finished bool // ended, and not to be started again
}

// State is what a service does.
type State struct {
	// Running is whether the program runs, and is not just about to fail again; or
	// has ended well and is not to be started again.
	Running  bool
	Wanted   bool          // it is switched on
	Finished bool          // it ended and is not to be started again
	Last     *sandbox.Exit // nil: it has not ended yet
	Restarts int           // since it was switched on
}

// New makes a service that is switched off.
func New(c Config) *Service {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.StopTimeout, 10*time.Second)
	set(&c.Backoff, time.Second)
	set(&c.MaxBackoff, time.Minute)
	set(&c.Settle, 5*time.Second)
	if c.StopSignal == 0 {
		c.StopSignal = unix.SIGTERM
	}
	if c.Restart == "" {
		c.Restart = manifest.Always
	}
	return &Service{c: c}
}

// Start switches the service on and returns at once. One that is on stays as it is,
// even when it has ended for good.
func (s *Service) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return
	}
	before, stop, off := s.off, make(chan struct{}), make(chan struct{})
	s.stop, s.off = stop, off
	s.restarts, s.row, s.last, s.finished = 0, 0, nil, false
	go func() {
		defer close(off)
		if before != nil {
			<-before // whoever stopped it may not have waited; two must not run at once
		}
		s.run(stop)
	}()
}

// Resume switches on a service that has ended for good before, in an earlier life of
// this process, and is not to be started again.
func (s *Service) Resume(e sandbox.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return
	}
	s.stop, s.off = make(chan struct{}), make(chan struct{})
	s.last, s.finished = &e, true
	close(s.off)
}

// Stop switches the service off and waits for its end.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	off := s.off
	if s.stop != nil {
		close(s.stop)
		s.stop = nil
	}
	s.mu.Unlock()
	if off == nil {
		return nil
	}
	select {
	case <-off:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		return fmt.Errorf("it does not end although it was killed %s ago: it may wait for hardware", lost)
	}
	return nil
}

// Reload makes a service that is on take notice of a new configuration. One that has
// ended for good runs once more.
func (s *Service) Reload(ctx context.Context) error {
	s.mu.Lock()
	on, proc := s.stop != nil, s.proc
	s.mu.Unlock()
	if !on {
		return nil
	}
	if proc != nil && s.c.ReloadSignal != 0 {
		proc.Signal(s.c.ReloadSignal)
		return nil
	}
	if err := s.Stop(ctx); err != nil {
		return err
	}
	s.Start()
	return nil
}

// State returns what the service does.
func (s *Service) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Wanted: s.stop != nil, Finished: s.finished, Last: s.last, Restarts: s.restarts}
	if s.finished {
		st.Running = st.Wanted && s.last.Status() == 0
	} else {
		st.Running = s.proc != nil && (s.row == 0 || time.Since(s.since) >= s.c.Settle)
	}
	return st
}

// Settled waits until the service has run for d, or ended, or ctx has.
func (s *Service) Settled(ctx context.Context, d time.Duration) {
	for end := time.Now().Add(d); ; {
		s.mu.Lock()
		off, proc, failed := s.off, s.proc, s.last != nil
		s.mu.Unlock()
		left := time.Until(end)
		if off == nil || failed || left <= 0 {
			return
		}
		var done <-chan struct{}
		if proc != nil {
			done = proc.Done()
			left = min(left, 10*time.Millisecond) // to notice that the loop has, too
		}
		t := time.NewTimer(min(left, 5*time.Millisecond))
		select {
		case <-ctx.Done():
		case <-off:
		case <-done:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// run is the loop of a service that is on.
func (s *Service) run(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		began := time.Now()
		p, err := s.c.Start()
		e := sandbox.Exit{Err: err}
		if err == nil {
			s.mu.Lock()
			s.proc, s.since = p, began
			s.mu.Unlock()
			select {
			case <-p.Done():
			case <-stop:
				s.end(p)
				return
			}
			e = p.Exit()
		}
		again, on := s.ended(e, time.Since(began))
		if s.c.Ended != nil {
			s.c.Ended(e, again)
		}
		if !on {
			return
		}
		t := time.NewTimer(again)
		select {
		case <-stop:
			t.Stop()
			return
		case <-t.C:
		}
		s.mu.Lock()
		s.restarts++
		s.mu.Unlock()
	}
}

// ended notes how a run ended and decides what comes next.
func (s *Service) ended(e sandbox.Exit, ran time.Duration) (again time.Duration, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc, s.last = nil, &e
	if s.c.Restart == manifest.Never || s.c.Restart == manifest.OnFailure && e.Status() == 0 {
		s.finished = true
		return 0, false
	}
	if ran >= s.c.MaxBackoff {
		s.row = 0
	}
	again = min(s.c.Backoff<<min(s.row, 20), s.c.MaxBackoff)
	s.row++
	return again, true
}

// end stops a run. Its exit says nothing about the program.
func (s *Service) end(p Process) {
	p.Signal(s.c.StopSignal)
	if !within(p, s.c.StopTimeout) {
		p.Kill()
		if !within(p, lost) {
			return // Stop tells
		}
	}
	s.mu.Lock()
	s.proc = nil
	s.mu.Unlock()
}

func within(p Process, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.Done():
		return true
	case <-t.C:
		return false
	}
}
