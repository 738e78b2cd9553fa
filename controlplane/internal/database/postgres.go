package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Config reads a PostgreSQL URL. Its connections are given up when the server is gone,
// and so are transactions, and the locks that they hold, when this process is. What
// settings has, and what is set here, is for what the URL does not set itself.
func Config(dsn string, settings map[string]string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		// What it quotes of a DSN that it cannot parse may be the password.
		return nil, errors.New("PostgreSQL URL: want postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full, with special characters of names and passwords percent-encoded")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	for _, some := range []map[string]string{settings, lost} {
		for name, value := range some {
			if _, set := config.RuntimeParams[name]; !set {
				config.RuntimeParams[name] = value
			}
		}
	}
	return config, nil
}

// lost are settings by which PostgreSQL finds out that this process is, and that it
// waits for one that does not go on.
var lost = map[string]string{
	"idle_in_transaction_session_timeout": "10s",
	"tcp_keepalives_idle":                 "10",
	"tcp_keepalives_interval":             "5",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "20s",
}

// Name is the database's URL without the password.
func Name(c *pgx.ConnConfig) string {
	return (&url.URL{Scheme: "postgres", User: url.User(c.User), Host: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), Path: "/" + c.Database}).Redacted()
}

// Listener hears notifications. Its functions are called by one goroutine.
type Listener struct {
	Config   *pgx.ConnConfig
	Channels []string
	// Listening is called whenever a connection listens: what was notified before is
	// lost. It may be nil.
	Listening func()
	Heard     func(ctx context.Context, channel, payload string)
	Lost      func(err error) // the connection; another is made
}

// Run listens until ctx ends, over a connection of its own that it makes anew whenever
// it is lost.
func (l Listener) Run(ctx context.Context) {
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		begun := time.Now()
		err := l.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		l.Lost(err)
		if time.Since(begun) > time.Minute {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

func (l Listener) listen(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, l.Config.Copy())
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, `LISTEN `+strings.Join(l.Channels, `; LISTEN `)); err != nil {
		return err
	}
	if l.Listening != nil {
		l.Listening()
	}
	for {
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			l.Heard(ctx, n.Channel, n.Payload)
		case waiting.Err() != nil && ctx.Err() == nil: // a silent connection may be a lost one
			if err := conn.Ping(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// Code is the SQLSTATE of an error that PostgreSQL has answered with, or "".
func Code(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// Broken reports whether the connection is what failed, or PostgreSQL itself, rather
// than the statement.
func Broken(err error) bool {
	var answer *pgconn.PgError
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &answer):
		return answer.Severity == "FATAL" || answer.Severity == "PANIC" || strings.HasPrefix(answer.Code, "08")
	case errors.As(err, &connect):
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.As(err, &network) || pgconn.SafeToRetry(err)
}
