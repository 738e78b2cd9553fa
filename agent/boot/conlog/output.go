package conlog

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/agent/boot/lastwords"
)

const (
	queueLines = 1024 // per console: about what one boot prints
	// kmsgLine is the longest line written to /dev/kmsg in one piece; the
	// kernel refuses records of more than 1024 bytes with all its prefixes.
	kmsgLine = 900
)

// Output spreads lines over the kernel log and the consoles. A console that
// does not take them, a serial line held by flow control say, loses lines and
// later says how many, but never blocks the program.
type Output struct {
	kmsg     io.Writer // one Write is one record; nil means none
	consoles []*console
	mu       sync.Mutex // keeps the lines of one text together in kmsg
	tap      func(Line)
	history  []Line // until there is a tap
}

// Line is a line as it was written.
type Line struct {
	At    time.Duration // since the kernel started
	Level slog.Level
	Text  string
}

// keepLines is how many lines are kept for a tap: about what one boot prints.
const keepLines = 1024

type console struct {
	name    string
	w       io.Writer
	lines   chan string
	dropped atomic.Int64
	pending atomic.Int64 // lines queued and not yet written
}

// NewOutput writes to kmsg, which may be nil, and to consoles by name.
func NewOutput(kmsg io.Writer, consoles map[string]io.Writer) *Output {
	o := &Output{kmsg: kmsg}
	for name, w := range consoles {
		c := &console{name: name, w: w, lines: make(chan string, queueLines)}
		o.consoles = append(o.consoles, c)
		lastwords.Go("console "+name, c.run)
	}
	return o
}

// Line writes one message. Line breaks in it make several lines.
func (o *Output) Line(level slog.Level, msg string) {
	stamp := uptime()
	o.mu.Lock()
	defer o.mu.Unlock()
	for line := range strings.SplitSeq(strings.TrimRight(msg, "\n"), "\n") {
		o.toKmsg(level, line)
		o.toTap(Line{time.Duration(stamp * float64(time.Second)), level, line})
		for _, c := range o.consoles {
			c.put(fmt.Sprintf("[%12.6f] teeth: %-5s %s\n", stamp, level, line))
		}
	}
}

// Tap has f called with every line, those first that were written before, as far as
// they are kept. f must return at once, and must not write to o. There is one tap: the
// next takes its place.
func (o *Output) Tap(f func(Line)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tap = f
	for _, l := range o.history {
		f(l)
	}
	o.history = nil
}

// toTap hands a line to the tap, or keeps it for one. o.mu is held.
func (o *Output) toTap(l Line) {
	if o.tap != nil {
		o.tap(l)
		return
	}
	if len(o.history) == keepLines {
		o.history = o.history[1:]
	}
	o.history = append(o.history, l)
}

// Flush waits until the consoles have taken all lines, at most d. It reports
// whether they did.
func (o *Output) Flush(d time.Duration) bool {
	end := time.Now().Add(d)
	for _, c := range o.consoles {
		for c.pending.Load() > 0 {
			if time.Now().After(end) {
				return false
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return true
}

// toKmsg logs with a priority that the consoles' log level, 4, holds back: the
// kernel would else print on every console what we print there ourselves. The
// line says its own level.
func (o *Output) toKmsg(level slog.Level, line string) {
	if o.kmsg == nil {
		return
	}
	prio := 6 // KERN_INFO
	switch {
	case level >= slog.LevelWarn:
		prio = 4 // KERN_WARNING
	case level < slog.LevelInfo:
		prio = 7 // KERN_DEBUG
	}
	for first := true; first || line != ""; first = false {
		part := line
		if len(part) > kmsgLine {
			part = part[:kmsgLine]
		}
		line = line[len(part):]
		// Facility 1 (user), as syslog(3) numbers it. There is nowhere to
		// report a failure to but the consoles, which have the line.
		_, _ = fmt.Fprintf(o.kmsg, "<%d>teeth: %s %s\n", 1<<3|prio, level, part)
	}
}

func (c *console) put(line string) {
	c.pending.Add(1)
	select {
	case c.lines <- line:
	default:
		c.pending.Add(-1)
		c.dropped.Add(1)
	}
}

func (c *console) run() {
	for line := range c.lines {
		if n := c.dropped.Swap(0); n > 0 {
			line = fmt.Sprintf("[console %s lost %d lines]\n%s", c.name, n, line)
		}
		// A console that is gone (an unplugged USB serial line) has nowhere
		// to say so.
		_, _ = io.WriteString(c.w, line)
		c.pending.Add(-1)
	}
}
