// Package progress is how long-running library calls report how far they are.
//
// It holds nothing but the callback type, so that the libraries that make up
// Teeth (erase, imagecache, configdrive, kexec, hwinfo) need no knowledge of
// tasks, percentages or time left; package agent/task derives those.
package progress

// Func receives how much of the work is done. Both values are in the unit the
// caller documents, bytes unless it says otherwise; total is 0 while unknown.
// It is called from the goroutine that does the work and must return quickly.
// A nil Func is valid: use Report to call it.
type Func func(done, total int64)

// Report calls f unless it is nil.
func (f Func) Report(done, total int64) {
	if f != nil {
		f(done, total)
	}
}

// Part maps the progress of one step onto the share [from, to) of total in f's
// own unit. A step that reports total 0 moves nothing.
func (f Func) Part(from, to, total int64) Func {
	return func(d, t int64) {
		if t <= 0 {
			return
		}
		d = min(max(d, 0), t)
		f.Report(from+int64(float64(to-from)*float64(d)/float64(t)), total)
	}
}
