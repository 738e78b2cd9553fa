package scale

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// maxIdle is what an idle agent may cost the server beside TLS, in bytes.
const maxIdle = 40 << 10

// 500 agents get their certificates, lose their server without warning, and are all
// back, with certificates and none twice.
func TestFleetSurvivesTheServer(t *testing.T) {
	const n = 500
	s := newServer(t)
	s.start(t)
	f := launch(t, s, n, false)
	f.wait("got a certificate", &f.certified, n, 3*time.Minute) // on a machine that is busy with other things
	for round := range 2 {
		f.lose(s)
		full := f.full.Load()
		s.start(t)
		f.wait("came back", &f.settled, n, 3*time.Minute)
		// The first connection with the certificate cannot resume what began without it.
		if now := f.full.Load() - full; round == 1 && now > n/10 {
			t.Errorf("%d of %d sessions were not resumed", now, n)
		}
	}
	list := s.chassis(t)
	if len(list) != n {
		t.Errorf("%d chassis, want %d", len(list), n)
	}
	for _, c := range list {
		if !c.Connected || c.Approved == nil {
			t.Fatalf("%+v", c)
		}
	}
}

// BenchmarkFleet prints what 10,000 agents (with -short 500) cost.
func BenchmarkFleet(b *testing.B) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	for b.Loop() {
		s := newServer(b)
		s.start(b)
		empty := s.memory(b)
		began := time.Now()
		f := launch(b, s, n, false)
		f.wait("got a certificate", &f.certified, n, 3*time.Minute)
		b.ReportMetric(time.Since(began).Seconds(), "s-to-enrol")

		// The first connection with the certificate cannot resume what began without it.
		f.back(b, s, n, "full")
		over := f.back(b, s, n, "resumed")
		b.ReportMetric(float64(over.Live-empty.Live)/float64(n), "B/agent-TLS")
		b.ReportMetric(float64(over.Resident-empty.Resident)/float64(n), "RSS-B/agent-TLS")
		b.ReportMetric(float64(over.Goroutines-empty.Goroutines)/float64(n), "goroutines/agent")

		for _, resume := range []bool{false, true} {
			unit := "sessions/s-full"
			if resume {
				unit = "sessions/s-resumed"
			}
			b.ReportMetric(f.rate(resume, n), unit)
		}
		f.land()
		s.kill()

		s = newServer(b)
		s.start(b)
		empty = s.memory(b)
		f = launch(b, s, n, true)
		f.wait("connected", &f.settled, n, 2*time.Minute)
		time.Sleep(2 * time.Second)
		over = s.memory(b)
		plain := float64(over.Live-empty.Live) / float64(n)
		b.ReportMetric(plain, "B/agent-plain")
		if plain > maxIdle {
			b.Errorf("an idle agent costs %.0f bytes beside TLS; at most %d", plain, maxIdle)
		}
		f.land()
		s.kill()
	}
	b.ReportMetric(0, "ns/op")
}

// back kills the server, starts it anew, and reports how long it takes until all
// agents are back, and how much processor time at either end for each. It returns
// what the server holds then.
func (f *fleet) back(b *testing.B, s *server, n int, how string) memory {
	f.lose(s)
	full, failures, spent := f.full.Load(), f.failures.Load(), cpu()
	s.start(b)
	took := f.wait("came back", &f.settled, n, 3*time.Minute)
	spent = cpu() - spent
	b.ReportMetric(took.Seconds(), "s-back-"+how)
	time.Sleep(2 * time.Second)
	m := s.memory(b)
	each := func(d time.Duration) float64 { return d.Seconds() * 1e3 / float64(n) }
	b.ReportMetric(each(m.CPU), "server-cpu-ms/agent-back-"+how)
	b.Logf("back in %.1f s with %d full TLS handshakes and %d connections refused or lost; processor time for each agent: server %.2f ms, agent %.2f ms",
		took.Seconds(), f.full.Load()-full, f.failures.Load()-failures, each(m.CPU), each(spent))
	return m
}

// lose kills the server and waits until all agents know.
func (f *fleet) lose(s *server) {
	f.t.Helper()
	s.kill()
	for end := time.Now().Add(time.Minute); f.connected.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("%d sessions outlive their server", f.connected.Load())
		}
	}
}

// rate opens and closes sessions as fast as can be, each of another chassis, and
// returns how many a second. Chassis are numbered from first.
func (f *fleet) rate(resume bool, first int) float64 {
	const workers, last = 64, 4 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range workers {
		a := f.agent(first + i)
		if !resume {
			a.conf.ClientSessionCache = nil
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				nc, r, err := a.dial(ctx)
				if err != nil {
					continue // refused for their rate, or the time is over
				}
				next(r) // the status command, and with it the TLS tickets
				nc.Close()
				done.Add(1)
			}
		})
	}
	began := time.Now()
	wg.Wait()
	return math.Round(float64(done.Load()) / time.Since(began).Seconds())
}
