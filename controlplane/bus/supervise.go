package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/wire/amqpframe"
)

const (
	dialWait     = 10 * time.Second
	minBackoff   = 250 * time.Millisecond
	steady       = 2 * time.Second // a connection that lasted so long starts the backoff anew
	farewellWait = 2 * time.Second
)

// supervise keeps one connection: it dials, has work use the connection until
// work returns or the connection is lost, and starts over, after longest at most.
func (b *AMQP) supervise(st *state, name string, longest time.Duration, work func(context.Context, *amqp.Connection) error) {
	backoff := minBackoff
	for attempt := 0; b.ctx.Err() == nil; attempt++ {
		url := b.c.URLs[attempt%len(b.c.URLs)]
		log := b.c.Log.With("broker", shown(url), "connection", name)
		began := time.Now()
		err := b.once(st, name, url, work)
		if b.ctx.Err() != nil {
			return
		}
		b.set(func() { *st = state{err: fmt.Errorf("AMQP broker %s: %w", shown(url), err)} })
		if time.Since(began) > steady {
			backoff = minBackoff
		}
		// Full jitter: servers that lost the broker together do not return together.
		pause := minBackoff/2 + rand.N(backoff)
		log.Warn("no connection to the AMQP broker", "error", err, "again_in", pause.Round(time.Millisecond).String())
		backoff = min(2*backoff, longest)
		select {
		case <-time.After(pause):
		case <-b.ctx.Done():
			return
		}
		b.reconnects.Add(1)
	}
}

func (b *AMQP) once(st *state, name, url string, work func(context.Context, *amqp.Connection) error) error {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	conn, raw, err := b.dial(ctx, name, url)
	if err != nil {
		return err
	}
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	defer func() {
		// The farewell may hang on a socket that takes nothing; the socket decides.
		farewell := time.AfterFunc(farewellWait, func() { raw.Close() })
		conn.CloseDeadline(time.Now().Add(farewellWait))
		farewell.Stop()
		raw.Close()
	}()
	if err := declare(conn, b.c.Exchanges, b.c.Log); err != nil {
		return err
	}
	b.set(func() { *st = state{up: true} })
	b.c.Log.Info("connected to the AMQP broker", "broker", shown(url), "connection", name)
	done := make(chan error, 1)
	go func() { done <- work(ctx, conn) }()
	for {
		select {
		case reason, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			b.set(func() {
				st.blocked = ""
				if reason.Active {
					st.blocked = "blocked by " + reason.Reason
				}
			})
			if reason.Active {
				b.c.Log.Warn("the AMQP broker takes no messages for now", "broker", shown(url), "connection", name, "reason", reason.Reason)
			} else {
				b.c.Log.Info("the AMQP broker takes messages again", "broker", shown(url), "connection", name)
			}
		case e := <-lost:
			err := error(errLost)
			if e != nil {
				err = e
			}
			cancel()
			raw.Close() // unblocks work
			<-done
			return err
		case err := <-done:
			cancel()
			return err
		case <-ctx.Done():
			// Work ends by itself; if it is stuck in a write, the deadline of the
			// write ends it.
			return <-done
		}
	}
}

var errLost = fmt.Errorf("connection lost")

// dial returns the connection and the socket below it. TLS is ours, not the
// library's, as it reads what amqpframe lets through.
func (b *AMQP) dial(ctx context.Context, name, url string) (*amqp.Connection, net.Conn, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, nil, err
	}
	t, err := b.tlsFor(uri)
	if err != nil {
		return nil, nil, err
	}
	if t != nil {
		url = "amqp" + url[len(uri.Scheme):]
	}
	var raw net.Conn
	properties := amqp.NewConnectionProperties()
	properties["product"] = "teeth"
	properties.SetClientConnectionName("teeth " + name)
	conn, err := amqp.DialConfig(url, amqp.Config{
		Heartbeat: b.c.Heartbeat, Properties: properties,
		Dial: func(network, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialWait}
			c, err := d.DialContext(ctx, network, net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
			if err != nil {
				return nil, err
			}
			raw = &impatient{Conn: c, wait: b.c.WriteWait}
			context.AfterFunc(ctx, func() { // gone long before, unless the peer is silent
				time.AfterFunc(farewellWait+time.Second, func() { c.Close() })
			})
			// For the handshakes; the library takes it away after them.
			if err := c.SetDeadline(time.Now().Add(dialWait)); err != nil {
				return nil, err
			}
			if t == nil {
				return amqpframe.Filter(raw, 0, nil), nil
			}
			secure := tls.Client(raw, t)
			if err := secure.HandshakeContext(ctx); err != nil {
				return nil, err
			}
			return amqpframe.Filter(secure, 0, nil), nil
		},
	})
	if err != nil {
		if raw != nil {
			raw.Close()
		}
		return nil, nil, err
	}
	return conn, raw, nil
}

// tlsFor returns nil for amqp://. Without files of ours those hold that the URL's
// parameters name (cacertfile, certfile, keyfile, server_name_indication).
func (b *AMQP) tlsFor(uri amqp.URI) (*tls.Config, error) {
	if uri.Scheme != "amqps" {
		return nil, nil
	}
	t := b.tls
	if t == nil {
		var err error
		if t, err = (Config{CAFile: uri.CACertFile, CertFile: uri.CertFile, KeyFile: uri.KeyFile}).tls(); err != nil {
			return nil, err
		}
	}
	if t == nil {
		t = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t = t.Clone()
	if t.ServerName = uri.ServerName; t.ServerName == "" {
		t.ServerName = uri.Host
	}
	return t, nil
}

// impatient is a connection on which no single write takes for ever, so that a
// broker that stopped reading cannot hold a goroutine.
type impatient struct {
	net.Conn
	wait time.Duration
}

func (c *impatient) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.wait)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// declare declares the exchanges. Where we may not, one that others have declared
// does as well.
func declare(conn *amqp.Connection, exchanges []string, log *slog.Logger) error {
	for _, name := range exchanges {
		err := onChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil)
		})
		var refused *amqp.Error
		if errors.As(err, &refused) && refused.Code == amqp.AccessRefused && onChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(name, amqp.ExchangeTopic, true, false, false, false, nil)
		}) == nil {
			continue
		}
		if refused != nil && refused.Code == amqp.PreconditionFailed {
			// It is there: what can go over it does. One that we never use is no reason
			// to do without all others.
			log.Error("an exchange was declared with other properties than topic, durable: delete it, and have it declared anew", "exchange", name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("declare exchange %s as topic, durable: %w", name, err)
		}
	}
	return nil
}

// onChannel has a channel of its own for do: a refusal closes it.
func onChannel(conn *amqp.Connection, do func(*amqp.Channel) error) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	defer ch.Close()
	return do(ch)
}
