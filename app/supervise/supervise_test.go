package supervise

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/sandbox"
)

// fake is a process.
type fake struct {
	mu      sync.Mutex
	signals []unix.Signal
	deaf    bool // to all but SIGKILL
	undead  bool // and to that
	done    chan struct{}
	exit    sandbox.Exit
	once    sync.Once
}

func (f *fake) end(e sandbox.Exit) { f.once.Do(func() { f.exit = e; close(f.done) }) }

func (f *fake) Signal(s unix.Signal) {
	f.mu.Lock()
	f.signals = append(f.signals, s)
	f.mu.Unlock()
	if !f.deaf && s != unix.SIGHUP {
		f.end(sandbox.Exit{Signal: s})
	}
}

func (f *fake) Kill() {
	f.mu.Lock()
	f.signals = append(f.signals, unix.SIGKILL)
	f.mu.Unlock()
	if !f.undead {
		f.end(sandbox.Exit{Signal: unix.SIGKILL})
	}
}

func (f *fake) Done() <-chan struct{} { return f.done }
func (f *fake) Exit() sandbox.Exit    { return f.exit }

// starter starts fakes.
type starter struct {
	mu    sync.Mutex
	runs  []*fake
	times []time.Time
	make  func() (*fake, error)
}

// count is how often it was started.
func (s *starter) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

func (s *starter) start() (Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	f := &fake{done: make(chan struct{})}
	if s.make != nil {
		var err error
		if f, err = s.make(); err != nil {
			return nil, err
		}
	}
	s.runs = append(s.runs, f)
	return f, nil
}

func ends(e sandbox.Exit, after time.Duration) func() (*fake, error) {
	return func() (*fake, error) {
		f := &fake{done: make(chan struct{})}
		time.AfterFunc(after, func() { f.end(e) })
		return f, nil
	}
}

// A service that always fails is started again later and later, and a run that was
// long enough begins anew.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{make: ends(sandbox.Exit{Code: 3}, time.Second)}
		svc := New(Config{Start: s.start, Backoff: time.Second, MaxBackoff: 8 * time.Second})
		svc.Start()
		svc.Start() // it is on
		time.Sleep(40*time.Second + time.Millisecond)
		synctest.Wait()
		var waits []time.Duration
		for i := 1; i < len(s.times); i++ {
			waits = append(waits, s.times[i].Sub(s.times[i-1])-time.Second)
		}
		want := []time.Duration{1, 2, 4, 8, 8}
		for i := range want {
			if waits[i] != want[i]*time.Second {
				t.Fatalf("waits %v", waits)
			}
		}
		s.mu.Lock()
		s.make = ends(sandbox.Exit{Code: 3}, 10*time.Second)
		s.mu.Unlock()
		n := s.count()
		for s.count() < n+3 {
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if d := s.times[n+2].Sub(s.times[n+1]); d != 12*time.Second && d != 11*time.Second {
			t.Errorf("after a long run it waits %s", d-10*time.Second)
		}
		st := svc.State()
		if !st.Wanted || st.Restarts != len(s.times)-1 || st.Last.Code != 3 {
			t.Errorf("%+v", st)
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// One that goes on failing is not called running while it is up for a moment.
func TestSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{make: ends(sandbox.Exit{Code: 1}, time.Second)}
		svc := New(Config{Start: s.start})
		svc.Start()
		synctest.Wait()
		if !svc.State().Running {
			t.Error("not running at first")
		}
		time.Sleep(2500 * time.Millisecond) // up for the second time
		synctest.Wait()
		if svc.State().Running || len(s.runs) != 2 {
			t.Errorf("%+v, %d runs", svc.State(), len(s.runs))
		}
		s.mu.Lock()
		s.make = nil
		s.mu.Unlock()
		time.Sleep(20 * time.Second)
		if !svc.State().Running {
			t.Errorf("%+v", svc.State())
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := svc.State(); st.Running || st.Wanted {
			t.Errorf("%+v", st)
		}
	})
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		policy   manifest.Restart
		exit     sandbox.Exit
		again    bool
		running  bool
		finished bool
	}{
		{manifest.Always, sandbox.Exit{}, true, false, false},
		{"", sandbox.Exit{Code: 1}, true, false, false},
		{manifest.OnFailure, sandbox.Exit{}, false, true, true},
		{manifest.OnFailure, sandbox.Exit{Signal: unix.SIGSEGV}, true, false, false},
		{manifest.OnFailure, sandbox.Exit{Err: errors.New("x")}, true, false, false},
		{manifest.Never, sandbox.Exit{}, false, true, true},
		{manifest.Never, sandbox.Exit{Code: 1}, false, false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &starter{make: ends(c.exit, time.Second)}
			var again []time.Duration // read after synctest.Wait only
			svc := New(Config{Start: s.start, Restart: c.policy, Ended: func(_ sandbox.Exit, d time.Duration) { again = append(again, d) }})
			svc.Start()
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			st := svc.State()
			if st.Running != c.running || st.Finished != c.finished || len(again) != 1 || (again[0] > 0) != c.again {
				t.Errorf("%s, %s: %+v, again %v", c.policy, c.exit, st, again)
			}
			svc.Start() // does not start again what has ended for good
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if (len(s.runs) > 1) != c.again {
				t.Errorf("%s, %s: %d runs", c.policy, c.exit, len(s.runs))
			}
			n := len(s.runs)
			if err := svc.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if len(s.runs) <= n {
				t.Error("a new configuration does not start it")
			}
			if err := svc.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStop(t *testing.T) {
	for _, c := range []struct {
		name         string
		deaf, undead bool
		took         time.Duration
		signals      int
	}{
		{"at once", false, false, 0, 1},
		{"killed", true, false, 3 * time.Second, 2},
		{"undead", true, true, 3*time.Second + lost, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{done: make(chan struct{}), deaf: c.deaf, undead: c.undead}
			s := &starter{make: func() (*fake, error) { return f, nil }}
			svc := New(Config{Start: s.start, StopTimeout: 3 * time.Second, StopSignal: unix.SIGINT})
			svc.Start()
			synctest.Wait()
			begin := time.Now()
			err := svc.Stop(t.Context())
			if (err != nil) != c.undead || time.Since(begin) != c.took || len(f.signals) != c.signals || f.signals[0] != unix.SIGINT {
				t.Errorf("%s: %v after %s, signals %v", c.name, err, time.Since(begin), f.signals)
			}
			if err := New(Config{}).Stop(t.Context()); err != nil {
				t.Error("never started:", err)
			}
		})
	}
}

func TestStopContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{make: func() (*fake, error) { return &fake{done: make(chan struct{}), deaf: true}, nil }}
		svc := New(Config{Start: s.start})
		svc.Start()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := svc.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(time.Minute) // it ends all the same
		if svc.State().Running {
			t.Error("it runs")
		}
	})
}

// One that is switched on again while it is being stopped does not run twice, and
// what comes after still knows of it.
func TestStartWhileItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{make: func() (*fake, error) { return &fake{done: make(chan struct{}), deaf: true}, nil }}
		svc := New(Config{Start: s.start, StopTimeout: 10 * time.Second})
		svc.Start()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := svc.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		svc.Start()
		time.Sleep(5 * time.Second)
		if n := s.count(); n != 1 {
			t.Fatalf("%d run at once", n)
		}
		time.Sleep(time.Minute)
		if st := svc.State(); !st.Running || s.count() != 2 {
			t.Fatalf("%+v, started %d times", st, s.count())
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.runs[1].done:
		default:
			t.Error("it runs on after it was stopped")
		}
	})
}

func TestReloadSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{}
		svc := New(Config{Start: s.start, ReloadSignal: unix.SIGHUP})
		if err := svc.Reload(t.Context()); err != nil || len(s.runs) != 0 {
			t.Error("one that is off was started", err)
		}
		svc.Start()
		synctest.Wait()
		if err := svc.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.runs) != 1 || len(s.runs[0].signals) != 1 {
			t.Errorf("%d runs", len(s.runs))
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starter{}
		svc := New(Config{Start: s.start, Restart: manifest.Never})
		svc.Resume(sandbox.Exit{})
		svc.Start()
		synctest.Wait()
		if st := svc.State(); !st.Running || len(s.runs) != 0 {
			t.Errorf("%+v, %d runs", st, len(s.runs))
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		svc.Start()
		synctest.Wait()
		if len(s.runs) != 1 {
			t.Error("switched off and on, it does not run")
		}
		if err := svc.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
