package amqplink

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/wire/amqpframe"
)

// dial returns the connection and the socket below it. TLS is ours, not the
// library's, as it reads what amqpframe lets through.
func (l *Link) dial(ctx context.Context, name, url string) (*amqp.Connection, net.Conn, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, nil, err
	}
	t, err := l.tlsFor(uri)
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
		Heartbeat: l.c.Heartbeat, Properties: properties,
		Dial: func(network, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialWait}
			c, err := d.DialContext(ctx, network, net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
			if err != nil {
				return nil, err
			}
			raw = &impatient{Conn: c, wait: l.c.WriteWait}
			context.AfterFunc(ctx, func() { // gone long before, unless the peer is silent
				time.AfterFunc(farewellWait+time.Second, func() { c.Close() })
			})
			// For the handshakes; the library takes it away after them.
			if err := c.SetDeadline(time.Now().Add(dialWait)); err != nil {
				return nil, err
			}
			oversize := func(size uint64) {
				l.c.Log.Warn("a message from the AMQP broker is too large and is emptied", "connection", name, "bytes", size, "most", l.c.MaxBody)
			}
			if t == nil {
				return amqpframe.Filter(raw, l.c.MaxBody, oversize), nil
			}
			secure := tls.Client(raw, t)
			if err := secure.HandshakeContext(ctx); err != nil {
				return nil, err
			}
			return amqpframe.Filter(secure, l.c.MaxBody, oversize), nil
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
func (l *Link) tlsFor(uri amqp.URI) (*tls.Config, error) {
	if uri.Scheme != "amqps" {
		return nil, nil
	}
	t := l.tls
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
	switch {
	case uri.ServerName != "":
		t.ServerName = uri.ServerName
	case t.ServerName == "":
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
