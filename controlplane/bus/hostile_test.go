package bus_test

import (
	"context"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	"github.com/teeth-metal/teeth/internal/testlog"
)

// TestPoison has peers send what breaks a client's connection: headers nested
// deeper than the library reads, and an answer's address that the broker fails
// over. Neither may hold up requests or events.
func TestPoison(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	b := start(t, bus.Config{URLs: []string{broker.URL()}})
	got := make(chan bus.Message, 100)
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"#"}, Group: "g", Handle: func(_ context.Context, m bus.Message) *bus.Message {
		if m.Key != "event" {
			got <- m
		}
		return &bus.Message{Body: []byte("answer")}
	}}); err != nil {
		t.Fatal(err)
	}
	ready(t, b)
	ch, closeConn := broker.Channel()
	defer closeConn()
	send := func(key string, p amqp.Publishing) {
		t.Helper()
		if err := ch.PublishWithContext(t.Context(), exchange, key, false, false, p); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			if m.Key != key {
				t.Errorf("got %s, want %s", m.Key, key)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not arrive", key)
		}
	}
	deep := amqp.Table{}
	for range 300 {
		deep = amqp.Table{"a": deep}
	}
	send("deep", amqp.Publishing{Headers: deep, ContentType: "application/json"})
	send("wide", amqp.Publishing{Headers: amqp.Table{"nothing": make([]any, 60_000)}})
	if s := b.Stats(); s.Reconnects != 0 || !s.Connected {
		t.Errorf("headers cost the connection: %+v", s)
	}

	// A process of a node that cannot be, as what is in an address by direct reply-to.
	address := "amq.rabbitmq.reply-to." + base64.StdEncoding.EncodeToString([]byte("\x83g2short")) + ".AAAA"
	for range 3 {
		send("address", amqp.Publishing{ReplyTo: address})
		began := time.Now()
		if err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "event", Body: []byte("{}"), Persistent: true}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("an event waited %v for an answer that cannot be sent", took)
		}
	}
	if s := b.Stats(); s.Repeated != 0 || s.Reconnects != 0 {
		t.Errorf("an address for an answer cost a connection: %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for { // one that comes while answers have no connection may be lost
		short, stop := context.WithTimeout(ctx, 3*time.Second)
		a, err := b.Request(short, bus.Message{Exchange: exchange, Key: "request", Body: []byte("{}")})
		stop()
		if err == nil {
			if string(a.Body) != "answer" {
				t.Errorf("%+v", a)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal("no answer after hostile messages: ", err)
		}
	}
}

// TestFewPermissions has a user who may declare no exchange, as others have done
// that, and may not send answers: that costs no event.
func TestFewPermissions(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	other := start(t, bus.Config{URLs: []string{broker.URL()}}) // declares the exchange
	ready(t, other)
	broker.Ctl("add_user", "few", "few")
	broker.Ctl("set_permissions", "few", `^teeth\.`, `^(on\.|teeth\.)`, `^(on\.|teeth\.)`)
	b := start(t, bus.Config{URLs: []string{"amqp://few:few@" + broker.Address() + "/"}})
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"ask"}, Group: "g", Handle: func(context.Context, bus.Message) *bus.Message {
		return &bus.Message{Body: []byte("answer")}
	}}); err != nil {
		t.Fatal(err)
	}
	ready(t, b)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if a, err := other.Request(ctx, bus.Message{Exchange: exchange, Key: "ask", Body: []byte("{}")}); err == nil {
			t.Errorf("answered without permission: %+v", a)
		}
		cancel()
		began := time.Now()
		if err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "event", Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("an event waited %v", took)
		}
	}
	if s := b.Stats(); s.Repeated != 0 {
		t.Errorf("events were sent again: %+v", s)
	}
}

// TestOtherExchange has an exchange that somebody declared otherwise: all others
// work, and it is told.
func TestOtherExchange(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	ch, closeConn := broker.Channel()
	defer closeConn()
	if err := ch.ExchangeDeclare("on.ssdp", "fanout", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	var said testlog.Buffer
	b, err := bus.NewAMQP(bus.Config{URLs: []string{broker.URL()}, Exchanges: []string{"on.ssdp", exchange}, Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ready(t, b)
	if err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "event", Body: []byte("{}")}); err != nil {
		t.Error(err)
	}
	if log := said.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "exchange=on.ssdp") {
		t.Errorf("not told: %s", log)
	}
}
