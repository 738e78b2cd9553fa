package task

import (
	"math"
	"time"
)

const (
	// smoothing is the time constant of the rate. Long enough to ride over a
	// flush of the disk's cache, short enough to follow a disk from its fast
	// outer to its slow inner tracks.
	smoothing = 30 * time.Second

	// settle is how long a task runs before its rate is worth telling.
	settle = 2 * time.Second

	// farthest is the largest time left that is told; beyond it the work has
	// stalled, and a number would be noise.
	farthest = 30 * 24 * time.Hour
)

// estimator derives the time left from the fraction of work done, by an
// exponentially weighted rate. Times carry the monotonic clock: a chassis'
// wall clock jumps when NTP first answers.
type estimator struct {
	start, last time.Time
	fraction    float64 // at last
	rate        float64 // fraction per second, weighted
	weight      float64 // sum of the weights, which makes up for the missing past
}

func newEstimator(now time.Time) estimator { return estimator{start: now, last: now} }

// update records that fraction of the work is done at now.
func (e *estimator) update(now time.Time, fraction float64) {
	dt := now.Sub(e.last).Seconds()
	if dt <= 0 {
		return
	}
	alpha := 1 - math.Exp(-dt/smoothing.Seconds())
	e.rate += alpha * ((fraction-e.fraction)/dt - e.rate)
	e.weight += alpha * (1 - e.weight)
	e.last, e.fraction = now, fraction
}

// left returns the estimated time left, and whether there is an estimate.
func (e *estimator) left() (time.Duration, bool) {
	if e.last.Sub(e.start) < settle || e.rate <= 0 {
		return 0, false
	}
	seconds := (1 - e.fraction) * e.weight / e.rate
	if seconds > farthest.Seconds() {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
