// Package lastwords makes sure that the end of PID 1 is seen: a panic in any
// goroutine started with Go, or an error that leaves nothing to go on with, is
// written to the consoles, the kernel log and every registered sink before the
// machine is rebooted.
//
// Its state belongs to the process, because a process ends once.
package lastwords

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxText  = 32 << 10         // bytes of last words; a stack can be long
	sinkTime = 10 * time.Second // all sinks together
	endTime  = 60 * time.Second // Plan.End, before it is taken to hang
)

// Plan is what happens at the end. The zero value suits a process that is not
// PID 1: print to standard error and exit with status 1.
type Plan struct {
	Print func(text string) // to the consoles and the kernel log; nil means standard error
	Delay time.Duration     // how long the text stays before End
	End   func()            // reboots, and does not return; nil means os.Exit(1)
}

// A Sink carries last words somewhere. It is given a few seconds and may be
// called from any goroutine, while the rest of the process still runs.
type Sink func(ctx context.Context, text string)

var (
	mu    sync.Mutex
	plan  Plan
	sinks []Sink
	once  sync.Once
)

// Set replaces the plan.
func Set(p Plan) {
	mu.Lock()
	defer mu.Unlock()
	plan = p
}

// Add registers a sink.
func Add(s Sink) {
	mu.Lock()
	defer mu.Unlock()
	sinks = append(sinks, s)
}

// Go runs f in a goroutine of its own; a panic in it is the end of the
// process, with last words that carry name.
func Go(name string, f func()) {
	go func() {
		defer Recover(name)
		f()
	}()
}

// Recover is to be deferred, by itself, at the top of a goroutine. It does
// nothing unless the goroutine panics.
func Recover(name string) {
	if v := recover(); v != nil {
		SayPanic(name, v)
	}
}

// SayPanic is Say for the value that recover returned, with the stack of the
// panic. It is for deferred functions that call recover themselves.
func SayPanic(name string, v any) {
	Say(fmt.Sprintf("panic in %s: %v\n\n%s", name, v, debug.Stack()))
}

// Say speaks the last words, waits, and ends the process. It never returns;
// when it is called again while doing so, the second call waits for the end.
func Say(text string) {
	once.Do(func() { say(text) })
	select {}
}

func say(text string) {
	mu.Lock()
	p := plan
	out := append([]Sink(nil), sinks...)
	mu.Unlock()
	if len(text) > maxText {
		text = text[:maxText] + "\n(cut)"
	}
	if p.Print == nil {
		p.Print = func(text string) { fmt.Fprintln(os.Stderr, text) }
	}
	if p.End == nil {
		p.End = func() { os.Exit(1) }
	}
	bounded(sinkTime, func() { p.Print(text) })
	ctx, cancel := context.WithTimeout(context.Background(), sinkTime)
	var wg sync.WaitGroup
	for _, s := range out {
		wg.Add(1)
		// A sink that panics must not keep the others from speaking.
		go func() {
			defer wg.Done()
			defer func() { _ = recover() }()
			s(ctx, text)
		}()
	}
	bounded(sinkTime, wg.Wait)
	cancel()
	time.Sleep(p.Delay)
	bounded(endTime, p.End)
	os.Exit(1) // End returned or hangs: the kernel's own panic timeout is left
}

// bounded waits for f, but not for ever: a console with flow control or a dead
// disk can block a system call without end.
func bounded(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}
