package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
)

const (
	// channel is where servers notify each other of commits.
	channel = "teeth"
	// pollEvery is how often the revision is asked for, should a notification be lost.
	pollEvery = time.Second
	// readers is how many connections queries share. With the writer's and the
	// listener's a server has ten.
	readers = 8
)

// settings of every connection. The row that holds the revision is locked while
// a transaction runs, and a slow statement must not stop the others for longer.
var settings = map[string]string{"application_name": "teeth", "statement_timeout": "30s"}

type postgres struct {
	config *pgx.ConnConfig
	name   string // without password
}

func (s *Store) openPostgres(dsn string) error {
	config, err := database.Config(dsn, settings)
	if err != nil {
		return err
	}
	hosts := map[string]bool{config.Host: true}
	for _, f := range config.Fallbacks {
		hosts[f.Host] = true
	}
	if len(hosts) > 1 && config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // not the standby
	}
	s.postgres = &postgres{config: config, name: database.Name(config)}
	if !protected(config) {
		s.log.Warn("the connection to the database may be read or redirected by others: add sslmode=verify-full to its URL", "database", s.postgres.name)
	}
	s.w = stdlib.OpenDB(*config)
	s.w.SetMaxOpenConns(1)
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.r = reader{db: db, d: postgreSQL}
	return nil
}

// LocalAddress is the address of this machine by which it reaches the database's;
// other servers of the database can probably reach it there. With a SQLite file,
// and with a database on this machine, it is a loopback address.
func (s *Store) LocalAddress() string {
	if s.postgres != nil && !strings.HasPrefix(s.postgres.config.Host, "/") {
		c := s.postgres.config
		// A UDP socket is given its address by the routes, and sends nothing.
		if conn, err := net.DialTimeout("udp", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), time.Second); err == nil {
			defer conn.Close()
			if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
				return a.IP.String()
			}
		}
	}
	return "127.0.0.1"
}

// protected reports whether every host is on this machine, or verified by TLS.
func protected(c *pgx.ConnConfig) bool {
	hosts := []*pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}
	for _, h := range append(hosts, c.Fallbacks...) {
		if strings.HasPrefix(h.Host, "/") || h.Host == "localhost" {
			continue
		}
		if ip := net.ParseIP(h.Host); ip != nil && ip.IsLoopback() {
			continue
		}
		if h.TLSConfig == nil || h.TLSConfig.InsecureSkipVerify && h.TLSConfig.VerifyPeerCertificate == nil {
			return false
		}
	}
	return true
}

// currentRevision waits for its turn to write and gives the revision and the time.
// The lock is taken in a subquery so that the clock is read after it.
const currentRevision = `SELECT rev, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)
	FROM (SELECT rev FROM revision FOR UPDATE) AS locked`

func (s *Store) beginPostgres(ctx context.Context) (*tx, error) {
	sqlTx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	t := &tx{sql: sqlTx, ctx: ctx, d: postgreSQL}
	if err := sqlTx.QueryRowContext(ctx, currentRevision).Scan(&t.rev, &t.now); err != nil {
		sqlTx.Rollback()
		if database.Code(err) == "25006" { // read-only: a primary that has become a standby
			s.w.SetMaxIdleConns(0) // closes the connection; the next finds the new primary
			s.w.SetMaxIdleConns(1)
		}
		return nil, err
	}
	s.ahead.Store(t.now - time.Now().UnixMilli())
	s.heardOf(t.rev)
	return t, nil
}

// concludePostgres commits. When the connection is lost meanwhile it finds out
// whether the commit was made.
func (s *Store) concludePostgres(t *tx, before int64) (again bool, err error) {
	// One round trip, hence no parameters. The number tells, later, whether this
	// transaction was committed.
	last := fmt.Sprintf(`INSERT INTO commits (instance, server, batch) VALUES ('%s', '%s', %d)
		ON CONFLICT (instance) DO UPDATE SET batch = excluded.batch`, s.instance, s.server, s.batch+1)
	if t.rev > before {
		last += fmt.Sprintf(`; UPDATE revision SET rev = %d; SELECT pg_notify('%s', '%d %s')`, t.rev, channel, t.rev, s.instance)
	}
	if _, err := t.Exec(last); err != nil {
		return true, fmt.Errorf("%w: the transaction was lost: %w", ErrUnavailable, err)
	}
	s.batch++
	err = t.sql.Commit()
	if err == nil {
		return false, nil
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Severity == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback) {
		return repeatable(err), fmt.Errorf("store: commit: %w", err)
	}
	s.log.Error("the database was lost during a commit", "database", s.name(), "error", err)
	committed, e := s.wasCommitted(s.batch)
	switch {
	case e != nil:
		return false, fmt.Errorf("store: %w: the database was lost during the commit: %w", ErrInDoubt, errors.Join(err, e))
	case committed:
		return false, nil
	}
	return true, fmt.Errorf("%w: commit: %w", ErrUnavailable, err)
}

// wasCommitted finds out whether the transaction with this number was. To lock
// the revision is to wait until the lost connection's transaction has ended, one
// way or the other. It gives up when the database stays away.
func (s *Store) wasCommitted(number int64) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), outage)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		t, err := s.beginPostgres(ctx)
		if err == nil {
			var newest int64
			err = t.QueryRow(`SELECT batch FROM commits WHERE instance = ?`, s.instance).Scan(&newest)
			t.sql.Rollback()
			if err == nil || errors.Is(err, sql.ErrNoRows) {
				return newest == number, nil
			}
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-s.quit:
			return false, errors.Join(err, ErrClosed)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// listen hears of other servers' commits until ctx ends.
func (s *Store) listen(ctx context.Context) {
	database.Listener{
		Config: s.postgres.config, Channels: []string{channel},
		Heard: func(ctx context.Context, _, payload string) {
			var rev int64
			var from string
			if _, err := fmt.Sscanf(payload, "%d %36s", &rev, &from); err == nil && from != s.instance {
				// It may come from another estate's schema in the same database.
				if rev, err := s.stored(ctx); err == nil {
					s.heardOf(rev)
				}
			}
		},
		Lost: func(err error) {
			s.log.Warn("lost the connection that hears of other servers' changes; polling meanwhile", "database", s.name(), "error", err)
		},
	}.Run(ctx)
}

// poll covers notifications that were lost with their connection.
func (s *Store) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if rev, err := s.stored(ctx); err == nil { // otherwise the writer and the readers say it
			s.heardOf(rev)
		}
	}
}

// stored reads the newest revision, and the clock.
func (s *Store) stored(ctx context.Context) (rev int64, err error) {
	var now int64
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = s.r.QueryRowContext(ctx, `SELECT rev, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) FROM revision`).Scan(&rev, &now)
	if err == nil {
		s.ahead.Store(now - time.Now().UnixMilli())
	}
	return rev, err
}

// repeatable reports whether the whole transaction is to be done again because
// it got in the way of another.
func repeatable(err error) bool {
	c := database.Code(err)
	return c == "40001" || c == "40P01"
}
