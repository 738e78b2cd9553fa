// Package repl is a conversation by hand with a Minion StreamServer: it connects and
// authenticates as an agent, sends what is typed, and shows what comes.
//
//	VERB::D1::D2…          send a frame: group and server id come first in its data
//	raw::VERB::D1::D2…     send a frame with just that data
//	N times { LINE }       send it N times
//	tail::SERVICE::PATH    follow a file and send its lines as log
//	untail::PATH           stop that
//	debug                  show every frame, both ways, or stop that
//	help, exit
//
// An element [a,b] is a list of texts. Two colons and a backslash are written \:: and
// \\. A command of the server is shown, and may be answered by hand:
//
//	R::ID-OF-THE-COMMAND::[output]::[errors]
package repl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/tail"
	"github.com/teeth-metal/teeth/wire/minion"
)

const (
	dialTime  = 15 * time.Second
	beatEvery = time.Minute
	ackWait   = time.Second
	leaveWait = time.Second
	maxTimes  = 1_000_000
)

// Config of a conversation.
type Config struct {
	Address            string // host:port
	Group, Server, Key string
	TLS                *tls.Config // nil: plain TCP
	Original           bool        // do not ask the server to acknowledge
	Debug              bool        // show every frame, both ways; the key is masked
	// Wait is how long answers are waited for after the last line; 0 is 5 s.
	Wait time.Duration
	// Stall is how long a server may take nothing until that is the end; 0 is 30 s.
	Stall time.Duration

	// Line returns the next line that was typed, and io.EOF at the end.
	Line func() (string, error)
	Out  io.Writer // written to from several goroutines, one line at a time
}

// Repl is one conversation.
type Repl struct {
	c    Config
	ids  *minion.Generator
	conn net.Conn

	out   sync.Mutex // around writes to c.Out
	write sync.Mutex // around writes to the connection

	mu      sync.Mutex
	debug   bool
	waiting map[minion.ID]bool // requests that are not answered, and records not acknowledged
	order   []minion.ID        // of records, as they were sent
	acks    bool
	acking  chan struct{} // closed when acks is set
	quiet   chan struct{} // closed when nothing is waited for
	tails   map[string]context.CancelFunc
	auth    chan string   // the server's answer
	gone    chan struct{} // closed when nothing more comes
	authID  minion.ID
}

// ErrDenied is a server that does not take the group, server id and key.
var ErrDenied = errors.New("the server denies access: group, server id and key do not belong together")

// Run has the conversation, until the input ends, "exit", or the end of ctx or of the
// connection. What could not be understood, in input that is not typed, is an error.
func Run(ctx context.Context, c Config) error {
	if c.Wait == 0 {
		c.Wait = 5 * time.Second
	}
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	r := &Repl{
		c: c, ids: minion.NewGenerator(minion.RandomNode()), debug: c.Debug,
		waiting: map[minion.ID]bool{}, tails: map[string]context.CancelFunc{}, auth: make(chan string, 1), acking: make(chan struct{}), gone: make(chan struct{}),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := r.connect(ctx); err != nil {
		return err
	}
	defer r.conn.Close()
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	defer stop()
	go func() {
		defer close(r.gone)
		cancel(r.receive())
	}()
	if err := r.authenticate(ctx); err != nil {
		return err
	}
	go r.beat(ctx)
	err := r.talk(ctx)
	r.leave()
	return err
}

// talk sends what is typed.
func (r *Repl) talk(ctx context.Context) error {
	lines, failed := make(chan string), make(chan error, 1)
	next := make(chan struct{}, 1)
	go func() {
		for range next {
			line, err := r.c.Line()
			if err != nil {
				failed <- err
				return
			}
			lines <- line
		}
	}()
	defer close(next)
	bad := 0
	for {
		next <- struct{}{}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-failed:
			if !errors.Is(err, io.EOF) {
				return err
			}
			return r.finish(ctx, bad)
		case line := <-lines:
			end, err := r.do(ctx, line)
			if err != nil {
				bad++
				r.say("error: %v", err)
			}
			if end {
				return r.finish(ctx, bad)
			}
		}
	}
}

// finish waits for answers.
func (r *Repl) finish(ctx context.Context, bad int) error {
	r.mu.Lock()
	if len(r.waiting) == 0 {
		r.mu.Unlock()
		return failures(bad)
	}
	quiet := make(chan struct{})
	r.quiet = quiet
	r.mu.Unlock()
	t := time.NewTimer(r.c.Wait)
	defer t.Stop()
	select {
	case <-quiet:
		return failures(bad)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(failures(bad), fmt.Errorf("%d frames were not answered within %v", len(r.waiting), r.c.Wait))
}

func failures(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d lines were not carried out", n)
}

// do carries out a line. It reports whether that was the last one.
func (r *Repl) do(ctx context.Context, text string) (end bool, err error) {
	l, err := parse(text)
	if err != nil {
		return false, err
	}
	switch l.what {
	case nothing:
	case exit:
		return true, nil
	case help:
		r.say("%s", usage)
	case debug:
		r.mu.Lock()
		r.debug = !r.debug
		on := r.debug
		r.mu.Unlock()
		r.say("debug is %v", on)
	case follow:
		return false, r.tail(ctx, l.service, l.path)
	case unfollow:
		return false, r.untail(l.path)
	case frame:
		for range l.times {
			f := minion.Frame{Verb: l.verb, ID: r.ids.Next(), Data: l.data}
			if !l.raw {
				f.Data = append(minion.Texts(r.c.Group, r.c.Server), l.data...)
			}
			if err := r.send(f); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// send writes a frame, and notes it if it will be answered.
func (r *Repl) send(f minion.Frame) error {
	b, err := f.Append(nil)
	if err != nil {
		return err
	}
	r.write.Lock()
	defer r.write.Unlock()
	r.mu.Lock()
	request := f.Verb == minion.Command && len(f.Data) > 2 && f.Data[2].Text == minion.Heartbeat
	record := r.acks && (f.Verb == minion.Log || f.Verb == minion.Telemetry || f.Verb == minion.Response)
	if request || record {
		r.waiting[f.ID] = true
	}
	if record {
		r.order = append(r.order, f.ID)
	}
	r.mu.Unlock()
	r.show("->", f, b)
	r.conn.SetWriteDeadline(time.Now().Add(r.c.Stall))
	if _, err = r.conn.Write(b); err != nil {
		r.conn.Close() // half a frame may be on its way; a terminal takes no ^C meanwhile
	}
	return err
}

// tail sends what is written to a file.
func (r *Repl) tail(ctx context.Context, service, path string) error {
	t, err := tail.New(tail.Config{
		Files: []tail.File{{Service: service, Path: path}},
		Log:   slog.New(complaints{r.say}),
		Line: func(_ context.Context, service, line string) error {
			for _, part := range minion.Split(line, minion.LogRoom(r.c.Group, r.c.Server, service)) {
				if err := r.send(minion.LogLine(r.ids.Next(), r.c.Group, r.c.Server, service, part)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tails[path] != nil {
		return fmt.Errorf("%s is followed already", path)
	}
	ctx, r.tails[path] = context.WithCancel(ctx)
	go t.Run(ctx)
	return nil
}

func (r *Repl) untail(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	stop := r.tails[path]
	if stop == nil {
		return fmt.Errorf("%s is not followed", path)
	}
	stop()
	delete(r.tails, path)
	return nil
}
