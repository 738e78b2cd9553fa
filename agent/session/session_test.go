package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestHandshakeThenPings(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		b.Report(teeth.TaskStatus{TaskID: "t", State: teeth.Complete}) // must wait for the handshake
		p := b.accept()
		hs, ok := <-p.in
		if !ok || hs.Method != teeth.MethodHandshake || string(hs.Params) != `{"id": "52:54:00:12:34:56", "version": "1.0", "token": "secret", "endpoint": "control-plane:8081"}` {
			t.Fatalf("first message %+v", hs)
		}
		time.Sleep(30 * time.Second)
		select {
		case m := <-p.in:
			t.Fatalf("%+v before the handshake was answered", m)
		default:
		}
		if b.Connected() || !b.LastHeard().IsZero() {
			t.Error("connected before anything was heard")
		}
		p.send(fmt.Sprintf(`{"id": %s, "version": "v1", "result": null}`+"\r\n", hs.ID)) // any answer will do
		synctest.Wait()
		if !b.Connected() || !b.LastHeard().Equal(time.Now()) {
			t.Errorf("connected %v, heard %v", b.Connected(), b.LastHeard())
		}
		began := time.Now()
		for _, want := range []time.Duration{0, 20 * time.Second, 40 * time.Second, 60 * time.Second} {
			m := <-p.in
			for m.Method == teeth.MethodTaskStatus {
				m = <-p.in
			}
			if m.Method != teeth.MethodPing || string(m.Params) != "{}" || time.Since(began) != want {
				t.Errorf("%+v after %v, want a ping after %v", m, time.Since(began), want)
			}
			p.result(m, struct{}{})
		}
	})
}

func TestSilenceEndsTheSession(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		p := b.accept().welcome()
		time.Sleep(30 * time.Second)
		p.send(" \r\n") // no message, but a sign of life
		heard := time.Now()
		for range p.in { // pings are not answered
		}
		if d := time.Since(heard); d != 60*time.Second {
			t.Errorf("closed %v after the last line", d)
		}
		synctest.Wait()
		if b.Connected() {
			t.Error("still connected")
		}
		lost := time.Now()
		b.accept().welcome()
		if d := time.Since(lost); d > 2*time.Second {
			t.Errorf("came back after %v", d)
		}
	})
}

func TestHandshakeMustBeAnswered(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		p := b.accept()
		p.expect(teeth.MethodHandshake)
		began := time.Now()
		for range 5 {
			p.send("\n")
			time.Sleep(10 * time.Second)
		}
		p.closed()
		if d := time.Since(began); d != 60*time.Second {
			t.Errorf("closed after %v", d)
		}
		p = b.accept()
		p.refuse(p.expect(teeth.MethodHandshake), "wrong token")
		p.closed()
	})
}

func TestViolations(t *testing.T) {
	tests := []struct{ line, fatal string }{
		{`hello`, "protocol error: unable to decode message."},
		{`[1]`, "protocol error: malformed message."},
		{`{"id":1,"method":"status","params":{}}`, "protocol violation: missing message version."},
		{`{"id":0,"version":"v1","method":"status","params":{}}`, "protocol violation: missing message id."},
		{`{"id":1,"version":"v1","method":"status"}`, "protocol violation: missing message params."},
		{`{"id":1,"version":"v1","method":"status","params":[]}`, "protocol violation: message params must be an object."},
		{`{"id":1,"version":"v2","method":"status","params":{}}`, "unknown message version"},
		{`{"id":1,"version":"v1","method":"nonsense","params":{}}`, "unknown message method"},
		{`{"id":1,"version":"v1","method":"handshake","params":{}}`, "unknown message method"},
		{`{"id":"x","version":"v1","result":{}}`, "protocol violation: unknown message id referenced."},
		{`{"id":7,"version":"v1","error":"no"}`, "protocol violation: unknown message id referenced."},
		{`{"id":1,"version":"v1"}`, "protocol error: malformed message."},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			bubble(t, testConfig(), func(t *testing.T, b *bench) {
				p := b.accept().welcome()
				p.send(tt.line + "\n")
				m, ok := p.next()
				if !ok || m.Kind != teeth.KindFatal || m.Fatal != tt.fatal {
					t.Fatalf("got %+v, want fatal %q", m, tt.fatal)
				}
				p.closed()
				b.accept().welcome() // and it comes back
			})
		})
	}
}

func TestFatalFromTheServer(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		p := b.accept().welcome()
		p.send(`{"fatal_error": "go away"}` + "\n")
		p.closed()
	})
}

func TestCommands(t *testing.T) {
	cfg := testConfig()
	cfg.Handler = handlerFunc(func(ctx context.Context, method string, params json.RawMessage) (any, error) {
		switch method {
		case teeth.MethodRunImage:
			return params, nil
		case teeth.MethodStatus:
			return nil, nil
		case teeth.MethodQC:
			return nil, fmt.Errorf("qc: %w", &teeth.MethodError{Msg: "busy", Extra: map[string]json.RawMessage{"task": json.RawMessage(`"t1"`)}})
		case teeth.MethodDiskErase:
			panic("oh no")
		case teeth.MethodFirmwareSecure:
			return strings.Repeat("x", teeth.MaxLine), nil
		case teeth.MethodCacheImages:
			return func() {}, nil
		}
		return nil, ErrUnknownMethod
	})
	tests := []struct{ line, want string }{
		{`{"id":7,"version":"v1","method":"standby.run_image","params":{"a":"ü"}}`, `{"id": 7, "version": "v1", "result": {"a": "\u00fc"}}`},
		{`{"id":[1],"version":"v1","method":"standbye.run_image","params":{}}`, `{"id": [1], "version": "v1", "result": {}}`},
		{`{"id":8,"version":"v1","method":"status","params":{}}`, `{"id": 8, "version": "v1", "result": null}`},
		{`{"id":9,"version":"v1","method":"decom.qc","params":{}}`, `{"id": 9, "version": "v1", "error": {"msg": "qc: busy", "task": "t1"}}`},
		{`{"id":10,"version":"v1","method":"decom.disk_erase","params":{}}`, `{"id": 10, "version": "v1", "error": {"msg": "decom.disk_erase panicked: oh no"}}`},
		{`{"id":11,"version":"v1","method":"decom.firmware_secure","params":{}}`, `{"id": 11, "version": "v1", "error": {"msg": "encode message of 524329 bytes: line longer than 524288 bytes"}}`},
		{`{"id":12,"version":"v1","method":"standbye.cache_images","params":{}}`, `{"id": 12, "version": "v1", "error": {"msg": "result: json: unsupported type: func()"}}`},
		{`{"id":13,"version":"v1","method":"ping","params":{"k":[1.0,null]}}`, `{"id": 13, "version": "v1", "result": {"k": [1.0, null]}}`},
		{`{"id":14,"version":"v1","method":"ping","params":{"k":"` + strings.Repeat("\x7f", 100000) + `"}}`, `{"id": 14, "version": "v1", "error": {"msg": "encode message of 600048 bytes: line longer than 524288 bytes"}}`},
	}
	bubble(t, cfg, func(t *testing.T, b *bench) {
		p := b.accept().welcome()
		var all strings.Builder
		for _, tt := range tests {
			all.WriteString(tt.line + "\n")
		}
		// Last an unknown method: everything before it must be answered first.
		all.WriteString(`{"id":99,"version":"v1","method":"nonsense","params":{}}` + "\n")
		go io.WriteString(p.nc, all.String())
		for _, tt := range tests {
			m, ok := p.next()
			if !ok {
				t.Fatalf("closed before the answer to %.100s", tt.line)
			}
			if got, err := m.Append(nil); err != nil || string(got) != tt.want+"\n" {
				t.Errorf("%.100s\n got %s%v\nwant %s", tt.line, got, err, tt.want)
			}
		}
		if m, ok := p.next(); !ok || m.Fatal != teeth.FatalUnknownMethod {
			t.Errorf("got %+v", m)
		}
		p.closed()
	})
}

func TestSlowCommandDoesNotHoldUpTheRest(t *testing.T) {
	cfg := testConfig()
	cfg.Handler = handlerFunc(func(ctx context.Context, method string, params json.RawMessage) (any, error) {
		select {
		case <-ctx.Done(): // the connection is gone
			return nil, ctx.Err()
		case <-time.After(time.Hour):
			return nil, nil
		}
	})
	bubble(t, cfg, func(t *testing.T, b *bench) {
		p := b.accept().welcome()
		p.send(`{"id":1,"version":"v1","method":"status","params":{}}` + "\n")
		b.Report(teeth.TaskStatus{TaskID: "t", State: teeth.Complete})
		_, m := p.expectStatusMessage()
		p.result(m, nil)
		p.quiet(5 * time.Minute)
		if got := b.deliveries(); len(got) != 1 {
			t.Errorf("delivered %v", got)
		}
		p.nc.Close()
		b.accept().welcome()
	})
}

// A handler that never returns costs one goroutine, not the chassis.
func TestStuckCommandDoesNotKeepTheAgentAway(t *testing.T) {
	release := make(chan struct{})
	cfg := testConfig()
	cfg.Handler = handlerFunc(func(context.Context, string, json.RawMessage) (any, error) {
		<-release
		return nil, nil
	})
	bubble(t, cfg, func(t *testing.T, b *bench) {
		release = make(chan struct{}) // of this bubble
		defer close(release)
		p := b.accept().welcome()
		p.send(`{"id":1,"version":"v1","method":"status","params":{}}` + "\n")
		synctest.Wait()
		p.nc.Close()
		b.accept().welcome()
	})
}

func TestPanicEndsOnlyTheConnection(t *testing.T) {
	cfg := testConfig()
	first := true
	cfg.Handshake = func() teeth.Handshake {
		if first {
			first = false
			panic("no MAC")
		}
		return teeth.Handshake{ID: "x"}
	}
	bubble(t, cfg, func(t *testing.T, b *bench) {
		b.accept().closed()
		b.accept().welcome()
	})
}

func TestRotationAndBackoff(t *testing.T) {
	cfg := testConfig()
	cfg.Endpoints = []string{"a:1", "b:1", "c:1"}
	bubble(t, cfg, func(t *testing.T, b *bench) {
		var waits []time.Duration
		for range 10 {
			for i := range 3 {
				began := time.Now()
				b.accept().nc.Close()
				if d := time.Since(began); i == 0 {
					waits = append(waits, d)
				} else if d != 0 {
					t.Errorf("waited %v within a round", d)
				}
			}
		}
		top := 2 * time.Second
		for i, d := range waits[1:] { // before the first round there is no wait
			if d > top {
				t.Errorf("wait %d is %v, want up to %v", i, d, top)
			}
			top = min(2*top, 30*time.Second)
		}
		p := b.accept().welcome()
		p.nc.Close()
		began := time.Now()
		b.accept().welcome()
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("after a session that worked it waited %v", d)
		}
		for i, e := range b.dialled {
			if e != cfg.Endpoints[i%3] {
				t.Fatalf("dialled %v", b.dialled)
			}
		}
	})
}

func TestBackoffBounds(t *testing.T) {
	s, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[time.Duration]bool)
	for failures := range 200 {
		for range 20 {
			d := s.backoff(failures)
			if d < 0 || d > 30*time.Second || failures < 2 && d > 2*time.Second {
				t.Fatalf("%d failures: %v", failures, d)
			}
			seen[d] = true
		}
	}
	if len(seen) < 3000 {
		t.Errorf("only %d different waits of 4000", len(seen))
	}
}

func TestRunEndsWhileThePeerIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s.dial = func(context.Context, string) (net.Conn, error) { return ours, nil }
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Second) // the handshake is being written and nobody reads
		began := time.Now()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for name, change := range map[string]func(*Config){
		"no endpoint":         func(c *Config) { c.Endpoints = nil },
		"no port":             func(c *Config) { c.Endpoints = []string{"host"} },
		"no host":             func(c *Config) { c.Endpoints = []string{":8081"} },
		"pin and plain TCP":   func(c *Config) { c.CASHA256 = pin },
		"neither":             func(c *Config) { c.Insecure = false },
		"short pin":           func(c *Config) { c.Insecure, c.CASHA256 = false, pin[2:] },
		"pin not hexadecimal": func(c *Config) { c.Insecure, c.CASHA256 = false, "zz"+pin[2:] },
		"no handler":          func(c *Config) { c.Handler = nil },
	} {
		cfg := testConfig()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	cfg := testConfig()
	cfg.Insecure, cfg.CASHA256 = false, strings.ToUpper(strings.Repeat("ab:", 31)+"ab")
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}

// FuzzServer feeds a connection whatever a server might send. It must end when
// the server is gone, without a panic.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"id":1,"version":"v1","method":"ping","params":{}}` + "\n\r\n"))
	f.Add([]byte(`{"id":"x","version":"v1","result":{}}` + "\n"))
	f.Add([]byte(`{"id":1,"version":"v1","method":"x","params":{}}` + "\n" + `{"fatal_error":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := testConfig()
		var panicked bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(&panicked, &slog.HandlerOptions{Level: slog.LevelError}))
		cfg.Handler = handlerFunc(func(_ context.Context, method string, params json.RawMessage) (any, error) {
			if len(method)%2 == 0 {
				return params, nil
			}
			return nil, ErrUnknownMethod
		})
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.timers.last = time.Second
		ours, theirs := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- newConn(s, ours, "x:1").run(t.Context()) }()
		go io.Copy(io.Discard, theirs)
		theirs.Write(data) // fails when the agent has closed
		theirs.Close()
		if err := <-ended; err == nil {
			t.Error("ended without a reason")
		}
		ours.Close()
		if panicked.Len() > 0 {
			t.Error(panicked.String())
		}
	})
}
