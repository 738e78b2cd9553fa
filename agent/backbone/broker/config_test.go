package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	link "github.com/teeth-metal/teeth/internal/amqplink"
)

func TestConfig(t *testing.T) {
	good := Config{URL: "amqp://u:hush@h/", HostID: "a", Log: slog.New(slog.DiscardHandler)}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for says, change := range map[string]func(*Config){
		"want amqp[s]://":        func(c *Config) { c.URL = "http://u:hush@h/" },
		"AMQP URL":               func(c *Config) { c.URL = "" },
		"must not be empty":      func(c *Config) { c.HostID = "" },
		"routing key of others":  func(c *Config) { c.HostID = "master" },
		"is part of a queue":     func(c *Config) { c.HostID = strings.Repeat("x", 250) },
		"control characters":     func(c *Config) { c.MAC = "a b" },
		"auto, document, 2014 o": func(c *Config) { c.Dialect = "2016" },
	} {
		c := good
		change(&c)
		_, err := New(c)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), says) {
			t.Errorf("want an error that says %q: %v", says, err)
		}
	}
}

// RabbitMQ 4.3 ends the connection of whoever declares such a queue. It is told what
// to set, once for each time.
func TestQueuesRefused(t *testing.T) {
	var log strings.Builder
	s, err := New(Config{URL: "amqp://h/", HostID: "a", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.notify(link.State{Err: errors.New("connection lost")})
	if log.Len() > 0 {
		t.Errorf("said: %s", &log)
	}
	refused := &amqp.Error{Code: amqp.InternalError, Reason: "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated."}
	s.notify(link.State{Err: fmt.Errorf("AMQP broker amqp://h: %w", refused)})
	if !strings.Contains(log.String(), "deprecated_features.permit.transient_nonexcl_queues = true") {
		t.Errorf("said: %s", &log)
	}
}
