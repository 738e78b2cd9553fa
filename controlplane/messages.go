package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/settings"
	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

// MessagesConfig says the message bus and what is said on it.
type MessagesConfig struct {
	// AMQP are the URLs of a RabbitMQ broker's nodes. None: the bus is in memory,
	// and nobody outside this process is on it.
	AMQP []string
	// Files for amqps: the CA's certificates, and a certificate with its key to
	// present.
	CA, Cert, Key string

	tee *rackhd.Tee
}

// log returns the server's log, which is on the bus as well once there is one. Its
// level is a setting.
func (c *MessagesConfig) log(l *slog.Logger) *slog.Logger {
	c.tee = rackhd.NewTee(l.Handler())
	return slog.New(c.tee.Handler())
}

// LowestLevel is that of the least that a server ever logs. Its log's handler should
// let that pass: what is logged is a setting, log.level.
const LowestLevel = slog.LevelDebug - 4

func (s *server) openSettings(ctx context.Context) (err error) {
	s.settings, err = settings.Open(ctx, s.store, s.Log, func(v settings.Values) {
		s.Messages.tee.Set(settings.Level(v.LogLevel), v.LogToBus)
	})
	return err
}

// farewell is how long the last log messages may take to be published.
const farewell = time.Second

// startMessages starts what serves it. A part that ends with an error ends the server.
func (s *server) startMessages(ctx context.Context, start func(part func() error)) error {
	b, err := s.openBus(slog.New(s.Messages.tee.Base()))
	if err != nil {
		return err
	}
	if err := s.metrics.Register(bus.Collector(b)); err != nil {
		return errors.Join(err, b.Close())
	}
	s.health.Add("bus", func(context.Context) error { return b.Err() })
	said := rackhd.New(rackhd.Config{
		Bus: b, Store: s.store, Engine: s.engine, Settings: s.settings, Hardware: reach{&s.hardware}, Version: s.Version, Log: s.Log,
	})
	// The bus outlives ctx by the words that say why the server ends.
	last, end := context.WithCancel(context.WithoutCancel(ctx))
	start(func() error { return s.settings.Run(ctx) })
	start(func() error { return said.Run(ctx) })
	start(func() error { return s.Messages.tee.Run(last, b) })
	start(func() error {
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			s.Log.Log(ctx, slog.LevelError+8, "control plane goes down", "error", cause)
		}
		s.Messages.tee.Flush(farewell)
		end()
		return b.Close()
	})
	return nil
}

func (s *server) openBus(log *slog.Logger) (bus.Bus, error) {
	if len(s.Messages.AMQP) == 0 {
		return bus.NewMemory(log), nil
	}
	return bus.NewAMQP(bus.Config{
		URLs: s.Messages.AMQP, CAFile: s.Messages.CA, CertFile: s.Messages.Cert, KeyFile: s.Messages.Key,
		Exchanges: wire.Exchanges(), Log: log,
	})
}
