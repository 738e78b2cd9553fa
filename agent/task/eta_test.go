package task

import (
	"math"
	"testing"
	"time"
)

func TestEstimator(t *testing.T) {
	start := time.Now()
	run := func(e *estimator, from, seconds int, fraction func(s int) float64) {
		for s := from + 1; s <= from+seconds; s++ {
			e.update(start.Add(time.Duration(s)*time.Second), fraction(s))
		}
	}
	steady := func(s int) float64 { return float64(s) / 1000 }

	t.Run("says nothing before it has settled", func(t *testing.T) {
		e := newEstimator(start)
		if _, ok := e.left(); ok {
			t.Error("before the first update")
		}
		run(&e, 0, 1, steady)
		if left, ok := e.left(); ok {
			t.Errorf("%v left after a second", left)
		}
	})
	t.Run("steady work is exact from the start", func(t *testing.T) {
		for _, s := range []int{2, 10, 100, 900} {
			e := newEstimator(start)
			run(&e, 0, s, steady)
			left, ok := e.left()
			if want := float64(1000 - s); !ok || math.Abs(left.Seconds()-want) > 0.01 {
				t.Errorf("after %d s: %v, %v, want %v s", s, left, ok, want)
			}
		}
	})
	t.Run("follows a rate that halves", func(t *testing.T) {
		e := newEstimator(start)
		run(&e, 0, 100, steady)
		run(&e, 100, 200, func(s int) float64 { return 0.1 + float64(s-100)/2000 })
		left, ok := e.left() // 0.8 of the work at 1/2000 a second
		if !ok || math.Abs(left.Seconds()-1600) > 20 {
			t.Errorf("%v, %v, want 1600 s", left, ok)
		}
	})
	t.Run("one slow second matters little", func(t *testing.T) {
		e := newEstimator(start)
		run(&e, 0, 100, steady)
		run(&e, 100, 1, func(int) float64 { return 0.1 })
		left, _ := e.left()
		if left.Seconds() < 900 || left.Seconds() > 950 {
			t.Errorf("%v", left)
		}
	})
	t.Run("grows while nothing moves, then falls silent", func(t *testing.T) {
		e := newEstimator(start)
		run(&e, 0, 100, steady)
		before, _ := e.left()
		run(&e, 100, 60, func(int) float64 { return 0.1 })
		after, ok := e.left()
		if !ok || after < 5*before {
			t.Errorf("%v after a minute without progress, %v before", after, before)
		}
		run(&e, 160, 600, func(int) float64 { return 0.1 })
		if left, ok := e.left(); ok {
			t.Errorf("still says %v", left)
		}
	})
	t.Run("done is done", func(t *testing.T) {
		e := newEstimator(start)
		run(&e, 0, 1000, steady)
		if left, ok := e.left(); !ok || left != 0 {
			t.Errorf("%v, %v", left, ok)
		}
	})
	t.Run("a clock that stands still", func(t *testing.T) {
		e := newEstimator(start)
		e.update(start, 0.5)
		run(&e, 0, 3, func(int) float64 { return 0.5 })
		if left, ok := e.left(); !ok || left < 0 {
			t.Errorf("%v, %v", left, ok)
		}
	})
}
