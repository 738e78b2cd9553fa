package repl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

func (r *Repl) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.c.Address)
	if err != nil {
		return err
	}
	if r.c.TLS != nil {
		tc := tls.Client(conn, r.c.TLS)
		if err := tc.HandshakeContext(ctx); err != nil {
			conn.Close()
			return fmt.Errorf("TLS with %s: %w", r.c.Address, err)
		}
		conn = tc
	}
	r.conn = conn
	return nil
}

func (r *Repl) authenticate(ctx context.Context) error {
	f := minion.Request(r.ids.Next(), r.c.Group, r.c.Server, minion.Authenticate, r.c.Key)
	r.mu.Lock()
	r.authID = f.ID
	r.mu.Unlock()
	if err := r.send(f); err != nil {
		return err
	}
	t := time.NewTimer(dialTime)
	defer t.Stop()
	select {
	case said := <-r.auth:
		if said != minion.Accepted {
			return ErrDenied
		}
	case <-ctx.Done():
		select { // the answer may have been the last thing
		case said := <-r.auth:
			if said != minion.Accepted {
				return ErrDenied
			}
		default:
		}
		return fmt.Errorf("%s has not answered who we are: %w", r.c.Address, context.Cause(ctx))
	case <-t.C:
		return fmt.Errorf("%s does not answer: an original server does so where it does not know the group", r.c.Address)
	}
	how := "TLS"
	if r.c.TLS == nil {
		how = "plain TCP"
	}
	r.say("connected to %s by %s as %s of group %s; type help for help", r.c.Address, how, r.c.Server, r.c.Group)
	if r.c.Original {
		return nil
	}
	if err := r.send(minion.Request(r.ids.Next(), r.c.Group, r.c.Server, minion.Acknowledge)); err != nil {
		return err
	}
	t.Reset(ackWait) // an original does not answer
	select {
	case <-r.acking:
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// leave ends the connection so that what was sent last arrives: to close it while
// something of the server's is unread would take that back.
func (r *Repl) leave() {
	if c, ok := r.conn.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		return
	}
	t := time.NewTimer(leaveWait)
	defer t.Stop()
	select {
	case <-r.gone:
	case <-t.C:
	}
}

// beat gives signs of life, as an agent does.
func (r *Repl) beat(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := r.send(minion.Request(r.ids.Next(), r.c.Group, r.c.Server, minion.Heartbeat)); err != nil {
				return // receive says why
			}
		}
	}
}

// receive shows what comes, until the connection ends, and returns why.
func (r *Repl) receive() error {
	in := minion.NewReader(r.conn)
	for {
		payload, err := in.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("the server has closed the connection")
		}
		if err != nil {
			return fmt.Errorf("connection with %s: %w", r.c.Address, err)
		}
		f, err := minion.Parse(payload)
		if err != nil {
			return fmt.Errorf("%s: %w", r.c.Address, err)
		}
		r.show("<-", f, append([]byte{byte(len(payload) >> 8), byte(len(payload))}, payload...))
		r.answered(f)
	}
}

// answered notes what a frame answers.
func (r *Repl) answered(f minion.Frame) {
	if f.Verb != minion.Response || len(f.Data) < 2 {
		return
	}
	id, err := minion.ParseID(f.Data[0].Text)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch f.Data[1].Text {
	case minion.Accepted, minion.Denied:
		if id == r.authID {
			select {
			case r.auth <- f.Data[1].Text:
			default:
			}
		}
	case minion.Acknowledging:
		if !r.acks {
			r.acks = true
			close(r.acking)
		}
	case minion.RecordedThrough:
		for i, sent := range r.order {
			if sent != id {
				continue
			}
			for _, kept := range r.order[:i+1] {
				delete(r.waiting, kept)
			}
			r.order = r.order[i+1:]
			break
		}
	}
	delete(r.waiting, id)
	if len(r.waiting) == 0 && r.quiet != nil {
		close(r.quiet)
		r.quiet = nil
	}
}
