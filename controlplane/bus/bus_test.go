package bus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
)

const exchange = "on.test"

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a", false}, {"a", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"*", "", true},
		{"#", "", true}, {"#", "a.b.c", true}, {"a.#", "a", true}, {"a.#", "a.b.c", true}, {"a.#", "b.a", false},
		{"#.z", "z", true}, {"#.z", "a.b.z", true}, {"#.z", "a.z.b", false}, {"a.#.z", "a.z", true},
		{"a.#.*.z", "a.z", false}, {"a.#.*.z", "a.b.z", true}, {"#.#", "a", true}, {"*.methods.run", "default.methods.run", true},
		{"graph.finished.*", "graph.finished.id", true}, {"graph.finished.*", "graph.finished.information.id", false},
		{"a..b", "a..b", true}, {"a.*.b", "a..b", true},
		{strings.Repeat("#.", 100) + "x", strings.Repeat("a.", 120) + "y", false},
	} {
		if got := bus.Match(c.pattern, c.key); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.key, got)
		}
	}
}

// start connects a bus that is closed when the test ends.
func start(t *testing.T, c bus.Config) *bus.AMQP {
	t.Helper()
	if c.Log == nil {
		c.Log = quiet()
	}
	c.Exchanges = []string{exchange}
	c.MaxBackoff = 500 * time.Millisecond
	b, err := bus.NewAMQP(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func ready(t *testing.T, buses ...bus.Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, b := range buses {
		if err := b.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuses holds both buses to the same contract, with two servers on each.
func TestBuses(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		b := bus.NewMemory(quiet())
		defer b.Close()
		contract(t, b, b)
	})
	t.Run("RabbitMQ", func(t *testing.T) {
		broker := rabbitmqtest.Start(t)
		// A user with what docs/rackhd.md says it needs, and no more.
		broker.Ctl("add_user", "teeth", "p%ss:w/rd")
		broker.Ctl("set_permissions", "teeth", `^(on\.|teeth\.)`, `^(on\.|teeth\.|amq\.default$)`, `^(on\.|teeth\.)`)
		url := "amqp://teeth:p%25ss%3Aw%2Frd@" + broker.Address() + "/"
		one, two := start(t, bus.Config{URLs: []string{url}}), start(t, bus.Config{URLs: []string{url}})
		contract(t, one, two)
	})
}

func contract(t *testing.T, one, two bus.Bus) {
	type got struct {
		name string
		bus.Message
	}
	var mu sync.Mutex
	var all []got
	subscribe := func(b bus.Bus, name, group string, keys ...string) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		err := b.Subscribe(ctx, bus.Subscription{Exchange: exchange, Keys: keys, Group: group, Handle: func(_ context.Context, m bus.Message) *bus.Message {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, got{name, m})
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return cancel
	}
	count := func(name string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, g := range all {
			if g.name == name {
				n++
			}
		}
		return n
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for range 500 {
			if ok() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: %d messages: %v", what, len(all), all)
	}
	subscribe(one, "every", "", "#")
	subscribe(two, "finished", "", "graph.finished.*", "task.#")
	subscribe(one, "shared", "workers", "work.*")
	subscribe(two, "shared", "workers", "work.*")
	stop := subscribe(one, "stopped", "", "#")
	for _, b := range []bus.Bus{one, two} {
		if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"ask.*"}, Group: "askers", Workers: 4,
			Handle: func(_ context.Context, m bus.Message) *bus.Message {
				switch m.Key {
				case "ask.silence":
					return nil
				case "ask.panic":
					panic("hostile")
				}
				return &bus.Message{Type: "Result", ContentType: "application/json", Body: append([]byte("re: "), m.Body...)}
			}}); err != nil {
			t.Fatal(err)
		}
	}
	ready(t, one, two)
	stop()
	time.Sleep(200 * time.Millisecond)

	var messages []bus.Message
	for i := range 100 {
		messages = append(messages, bus.Message{Exchange: exchange, Key: "work.x", Type: "Object", ContentType: "application/json", Body: fmt.Append(nil, i)})
	}
	if err := one.Publish(t.Context(), messages...); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"graph.finished.1", "graph.finished.information.1", "task.a.b", "nobody"} {
		if err := two.Publish(t.Context(), bus.Message{Exchange: exchange, Key: key, Type: "Object", Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	eventually("shared", func() bool { return count("shared") >= 100 })
	eventually("every", func() bool { return count("every") >= 104 })
	eventually("finished", func() bool { return count("finished") >= 2 })
	time.Sleep(100 * time.Millisecond)
	if count("shared") != 100 || count("every") != 104 || count("finished") != 2 || count("stopped") != 0 {
		t.Fatalf("shared %d, every %d, finished %d, stopped %d: want 100, 104, 2, 0", count("shared"), count("every"), count("finished"), count("stopped"))
	}
	next := 0
	for _, g := range all {
		if g.name == "every" && g.Key == "work.x" {
			if string(g.Body) != fmt.Sprint(next) || g.Type != "Object" || g.ContentType != "application/json" || g.Exchange != exchange {
				t.Fatalf("message %d is %+v", next, g)
			}
			next++
		}
	}

	var asking sync.WaitGroup
	for i := range 20 {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			a, err := two.Request(ctx, bus.Message{Exchange: exchange, Key: "ask.x", Body: fmt.Append(nil, i)})
			if err != nil || string(a.Body) != fmt.Sprintf("re: %d", i) || a.Type != "Result" {
				t.Errorf("request %d: %+v, %v", i, a, err)
			}
		})
	}
	asking.Wait()
	for _, key := range []string{"ask.silence", "ask.panic", "nobody.there"} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := one.Request(ctx, bus.Message{Exchange: exchange, Key: key}); !errors.Is(err, bus.ErrTimeout) {
			t.Errorf("request %s: %v, want ErrTimeout", key, err)
		}
		cancel()
	}
	if err := one.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "x", Body: make([]byte, bus.MaxBody+1)}); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("a body too large: %v", err)
	}
	if err := one.Publish(t.Context(), bus.Message{Exchange: exchange, Key: strings.Repeat("x", 256)}); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("a key too long: %v", err)
	}
	one.Close()
	if err := one.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "x"}); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("publish on a closed bus: %v", err)
	}
	if err := one.Err(); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Err of a closed bus: %v", err)
	}
}

// TestBrokerLost loses the broker in several ways under one bus.
func TestBrokerLost(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0") // a node that is down
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	b := start(t, bus.Config{
		URLs:      []string{"amqp://guest:guest@" + nobody.Addr().String() + "/", broker.URL()},
		MaxOutbox: 500, WriteWait: 2 * time.Second, ConfirmWait: 3 * time.Second, Heartbeat: 2 * time.Second,
	})
	var received atomic.Int64
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"x"}, Handle: func(context.Context, bus.Message) *bus.Message {
		received.Add(1)
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	message := bus.Message{Exchange: exchange, Key: "x", Body: []byte("{}")}
	works := func() {
		t.Helper()
		ready(t, b)
		before := received.Load()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := b.Publish(ctx, message); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			if received.Load() > before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("a published message does not arrive")
	}
	works()

	t.Run("connections closed", func(t *testing.T) {
		broker.Ctl("close_all_connections", "test")
		time.Sleep(100 * time.Millisecond)
		works()
	})
	t.Run("killed", func(t *testing.T) {
		broker.Kill()
		for range 500 { // until the kernel has told of it
			if b.Err() != nil && !b.Stats().Connected {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		done := make(chan error, 600)
		for range 600 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				done <- b.Publish(ctx, message)
			}()
		}
		for range 100 { // what the outbox cannot hold is told at once
			if err := <-done; !errors.Is(err, bus.ErrFull) {
				t.Fatalf("publish while the broker is away: %v", err)
			}
		}
		if b.Err() == nil {
			t.Fatal("the broker is away, and the bus says that it is connected")
		}
		if s := b.Stats(); s.Outbox != 500 || s.Refused != 100 || s.Connected {
			t.Errorf("stats without a broker: %+v, %v", s, b.Err())
		}
		if strings.Contains(b.Err().Error(), "guest") {
			t.Errorf("the error shows the password: %v", b.Err())
		}
		broker.Run()
		for range 500 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		works()
	})
	t.Run("frozen", func(t *testing.T) {
		broker.Freeze()
		time.Sleep(500 * time.Millisecond) // on a busy machine it yet confirms one
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Publish(ctx, message); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("publish to a frozen broker: %v", err)
		}
		for range 1500 { // until the heartbeat or the confirm is missed
			if !b.Stats().Connected {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if b.Stats().Connected {
			t.Error("a frozen broker counts as connected after 15 s")
		}
		broker.Thaw()
		works()
	})
	t.Run("blocked", func(t *testing.T) {
		broker.Ctl("set_vm_memory_high_watermark", "absolute", "1")
		done := make(chan error, 1)
		go func() { done <- b.Publish(t.Context(), message) }()
		for range 500 {
			if b.Stats().Blocked {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !b.Stats().Blocked || b.Err() == nil {
			t.Error("the broker has an alarm, and the bus does not know")
		}
		time.Sleep(4 * time.Second) // longer than ConfirmWait: that is no loss
		if !b.Stats().Connected {
			t.Error("the connection was given up because the broker is blocked")
		}
		broker.Ctl("set_vm_memory_high_watermark", "0.9")
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("not published after the alarm was over")
		}
		works()
	})
	t.Run("queue deleted", func(t *testing.T) {
		ch, closeConn := broker.Channel()
		defer closeConn()
		gone := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := b.Subscribe(ctx, bus.Subscription{Exchange: exchange, Keys: []string{"y"}, Group: "g", Handle: func(context.Context, bus.Message) *bus.Message {
			gone <- struct{}{}
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		ready(t, b)
		if _, err := ch.QueueDelete("teeth.g", false, false, false); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: "y"}); err != nil {
				t.Fatal(err)
			}
			select {
			case <-gone:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		t.Fatal("the subscription does not come back")
	})
}

// TestHostileMessages sends a consumer what no peer should.
func TestHostileMessages(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	b := start(t, bus.Config{URLs: []string{broker.URL()}})
	got := make(chan bus.Message, 100)
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"#"}, Group: "g", Handle: func(_ context.Context, m bus.Message) *bus.Message {
		got <- m
		return &bus.Message{Body: []byte("answer")}
	}}); err != nil {
		t.Fatal(err)
	}
	ready(t, b)
	ch, closeConn := broker.Channel()
	defer closeConn()
	send := func(to, key string, p amqp.Publishing) {
		t.Helper()
		if err := ch.PublishWithContext(t.Context(), to, key, false, false, p); err != nil {
			t.Fatal(err)
		}
	}
	big := make([]byte, bus.MaxBody+1)
	binary.BigEndian.PutUint32(big, 1)
	send(exchange, "big", amqp.Publishing{Body: big})
	send("", "teeth.g", amqp.Publishing{Body: []byte("past the exchange"), ReplyTo: "teeth.g"})
	send(exchange, "answer.to.itself", amqp.Publishing{ReplyTo: "teeth.g"})
	send(exchange, "answer.to.nobody", amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to.nonsense"})
	send(exchange, "answer.nowhere", amqp.Publishing{ReplyTo: "no such queue"})
	send(exchange, "fine", amqp.Publishing{Headers: amqp.Table{"x": amqp.Table{"deep": "er"}}, ContentType: strings.Repeat("x", 255)})
	for _, want := range []string{"answer.to.itself", "answer.to.nobody", "answer.nowhere", "fine"} {
		select {
		case m := <-got:
			if m.Key != want {
				t.Errorf("got %s, want %s", m.Key, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not arrive", want)
		}
	}
	for range 300 {
		if b.Stats().Discarded == 3 { // big, past the exchange, and the answer to ourselves
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := b.Stats(); s.Discarded != 3 || !s.Connected || s.Reconnects != 0 {
		t.Errorf("after hostile messages: %+v", s)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		bus.Config
		want string
	}{
		{"no URL", bus.Config{}, "no broker's URL"},
		{"scheme", bus.Config{URLs: []string{"http://user:secret@host/"}}, "want amqp[s]://"},
		{"percent", bus.Config{URLs: []string{"amqp://user:secret%zz@host/"}}, "percent-encoded"},
		{"CA", bus.Config{URLs: []string{"amqps://host/"}, CAFile: "/does/not/exist"}, "/does/not/exist"},
		{"not PEM", bus.Config{URLs: []string{"amqps://host/"}, CAFile: "/dev/null"}, "no certificate"},
		{"half a pair", bus.Config{URLs: []string{"amqps://host/"}, CertFile: "/dev/null"}, "needs its key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.Log = quiet()
			_, err := bus.NewAMQP(c.Config)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want %q and no password", err, c.want)
			}
		})
	}
}
