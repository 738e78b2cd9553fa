package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/internal/testlog"
	"github.com/teeth-metal/teeth/wire/minion"
)

// peer is a StreamServer as the original's wire facts have it: it takes one group, and
// answers authentication and heartbeats only. With acks it is one of ours.
type peer struct {
	t    *testing.T
	l    net.Listener
	acks bool

	mu     sync.Mutex
	frames []minion.Frame
}

const (
	group, key = "g1", "sesame-12"
	server     = "11111111-2222-3333-4444-555555555555"
)

func serve(t *testing.T, acks bool) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &peer{t: t, l: l, acks: acks}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.talk(c)
		}
	}()
	return p
}

func (p *peer) talk(c net.Conn) {
	defer c.Close()
	ids := minion.NewGenerator(minion.RandomNode())
	reply := func(to minion.ID, what string) {
		b, err := minion.Reply(ids.Next(), to, what).Append(nil)
		if err != nil {
			p.t.Error(err)
		}
		c.Write(b)
	}
	in := minion.NewReader(c)
	for {
		payload, err := in.Next()
		if err != nil {
			return
		}
		f, err := minion.Parse(payload)
		if err != nil {
			p.t.Error(err)
			return
		}
		p.mu.Lock()
		p.frames = append(p.frames, f)
		p.mu.Unlock()
		switch {
		case f.Verb == minion.Command && len(f.Data) > 3 && f.Data[2].Text == minion.Authenticate:
			if f.Data[3].Key() != key {
				reply(f.ID, minion.Denied)
				return
			}
			reply(f.ID, minion.Accepted)
		case f.Verb == minion.Command && f.Data[2].Text == minion.Heartbeat:
			reply(f.ID, minion.Recorded)
		case f.Verb == minion.Command && f.Data[2].Text == minion.Acknowledge:
			if p.acks {
				reply(f.ID, minion.Acknowledging)
			}
		case f.Verb == minion.Command && f.Data[2].Text == "order-me":
			b, err := minion.Order{ID: ids.Next(), Kind: minion.External, Argv: []string{"rm", "\x1b[2J"}}.Frame().Append(nil)
			if err != nil {
				p.t.Error(err)
			}
			c.Write(b)
		case p.acks:
			reply(f.ID, minion.RecordedThrough)
		}
	}
}

// got is the data of what came after the greeting.
func (p *peer) got() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.frames {
		if f.Verb == minion.Command && len(f.Data) > 2 && (f.Data[2].Text == minion.Authenticate || f.Data[2].Text == minion.Acknowledge) {
			continue
		}
		var texts []string
		for _, item := range f.Data {
			if item.IsList {
				texts = append(texts, fmt.Sprintf("%q", item.List))
				continue
			}
			texts = append(texts, item.Text)
		}
		all = append(all, string(rune(f.Verb))+" "+strings.Join(texts, "|"))
	}
	return
}

// typed is a Line that returns lines, and then io.EOF.
func typed(lines ...string) func() (string, error) {
	return func() (string, error) {
		if len(lines) == 0 {
			return "", io.EOF
		}
		line := lines[0]
		lines = lines[1:]
		return line, nil
	}
}

func TestConversation(t *testing.T) {
	for _, acks := range []bool{false, true} {
		t.Run(fmt.Sprintf("acknowledges %v", acks), func(t *testing.T) {
			p := serve(t, acks)
			var out testlog.Buffer
			err := Run(t.Context(), Config{
				Address: p.l.Addr().String(), Group: group, Server: server, Key: key, Out: &out,
				Line: typed("help", "C::heartbeat", "L::web::hello world", "3 times { T::load::1.5 }", `R::cmd::[a,b]::[]`, `L::web::a\::b\\c`, "raw::Q::x", "", "C::order-me", "C::heartbeat", "exit", "L::web::never"),
			})
			if err != nil {
				t.Fatal(err)
			}
			g := group + "|" + server + "|"
			want := []string{
				"C " + g + "heartbeat", "L " + g + "web|hello world", "T " + g + "load|1.5", "T " + g + "load|1.5", "T " + g + "load|1.5",
				"R " + g + `cmd|["a" "b"]|[]`, "L " + g + `web|a::b\c`, "Q x", "C " + g + "order-me", "C " + g + "heartbeat",
			}
			for end := time.Now().Add(5 * time.Second); !slices.Equal(p.got(), want); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("got  %q\nwant %q", p.got(), want)
				}
			}
			for _, want := range []string{"plain TCP", `"accepted"`, `"recorded"`, `"external" "rm" "\x1b[2J"`, "VERB::D1"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in %q", want, out.String())
				}
			}
			if strings.ContainsAny(out.String(), "\x1b\r") || strings.Contains(out.String(), "recorded-through") {
				t.Errorf("%q", out.String())
			}
		})
	}
}

// Every frame is shown with its bytes, both ways, and the key nowhere.
func TestDebugShowsAllButTheKey(t *testing.T) {
	for _, secret := range []string{key, "k1"} {
		p := serve(t, true)
		var out testlog.Buffer
		err := Run(t.Context(), Config{
			Address: p.l.Addr().String(), Group: group, Server: server, Key: secret, Out: &out, Debug: true,
			Line: typed("L::web::the key is "+secret, "C::authenticate-agent::["+secret+"]"),
		})
		if secret != key {
			if !errors.Is(err, ErrDenied) {
				t.Error(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if strings.Contains(text, `"`+secret+`"`) || secret == key && strings.Contains(text, secret) {
			t.Errorf("the key is shown: %s", text)
		}
		if spaced := strings.TrimSpace(fmt.Sprintf("% x", head(len(secret)))) + " " + fmt.Sprintf("% x", secret); strings.Contains(text, spaced) {
			t.Errorf("the key is shown in hex: %s", text)
		}
		for _, want := range []string{"-> C ", "<- R ", "00 ", " 93 a1 43 d9 24 ", strings.TrimSpace(strings.Repeat("** ", len(secret))), "bytes: ", mask} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in %s", want, text)
			}
		}
	}
}

func TestDenied(t *testing.T) {
	p := serve(t, false)
	err := Run(t.Context(), Config{Address: p.l.Addr().String(), Group: group, Server: server, Key: "wrong", Out: io.Discard, Line: typed()})
	if !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
}

func TestServerGoesAway(t *testing.T) {
	p := serve(t, false)
	var out testlog.Buffer
	typing := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(t.Context(), Config{Address: p.l.Addr().String(), Group: group, Server: server, Key: key, Out: &out, Line: func() (string, error) { return <-typing, nil }})
	}()
	typing <- "C::authenticate-agent::wrong" // after which it closes
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "closed the connection") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	typing <- "exit"
}

// A server that takes nothing any more ends the conversation.
func TestServerStalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		payload, err := minion.NewReader(c).Next()
		if err != nil {
			return
		}
		f, _ := minion.Parse(payload)
		b, _ := minion.Reply(minion.NewGenerator(minion.RandomNode()).Next(), f.ID, minion.Accepted).Append(nil)
		c.Write(b)
		<-t.Context().Done() // and reads no more
		c.Close()
	}()
	typing := make(chan string)
	ended := make(chan error, 1)
	var out testlog.Buffer
	go func() {
		ended <- Run(t.Context(), Config{Address: l.Addr().String(), Group: group, Server: server, Key: key, Original: true, Stall: 100 * time.Millisecond, Out: &out, Line: func() (string, error) { return <-typing, nil }})
	}()
	typing <- "100000 times { L::web::" + strings.Repeat("x", 4000) + " }"
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(out.String(), "timeout") {
			t.Errorf("%v: %s", err, out.String())
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits for ever")
	}
	close(typing)
}

func TestBadLines(t *testing.T) {
	p := serve(t, false)
	var out testlog.Buffer
	err := Run(t.Context(), Config{Address: p.l.Addr().String(), Group: group, Server: server, Key: key, Out: &out, Line: typed("nonsense", "L::a::b", "2 times help", "L::web::"+strings.Repeat("x", 9000))})
	if err == nil || !strings.Contains(err.Error(), "3 lines") || strings.Count(out.String(), "error: ") != 3 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestTail(t *testing.T) {
	p := serve(t, true)
	file := filepath.Join(t.TempDir(), "log")
	var out testlog.Buffer
	typing := make(chan string)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ended <- Run(ctx, Config{Address: p.l.Addr().String(), Group: group, Server: server, Key: key, Out: &out, Line: func() (string, error) {
			line, ok := <-typing
			if !ok {
				return "", io.EOF
			}
			return line, nil
		}})
	}()
	typing <- "tail::web::" + file
	typing <- "tail::web::" + file // once is enough
	typing <- "tail::web::relative"
	if err := os.WriteFile(file, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"L g1|" + server + "|web|one", "L g1|" + server + "|web|two"}
	for end := time.Now().Add(10 * time.Second); !slices.Equal(p.got(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q; %s", p.got(), out.String())
		}
	}
	typing <- "untail::" + file
	typing <- "untail::" + file
	close(typing)
	if err := <-ended; err == nil || strings.Count(out.String(), "error: ") != 3 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"x", "l::a", "LL::a", "::", "raw", "raw::", "tail::a", "tail::a::b::c", "untail", "9999999 times L::a", "2 times { L::a", "2 times exit", "2 times", "ß::a"} {
		if l, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, l)
		}
	}
	l, err := parse("  10 times L::a::[x]  ")
	if err != nil || l.times != 10 || l.verb != minion.Log || len(l.data) != 2 || !l.data[1].IsList {
		t.Errorf("%+v, %v", l, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"L::a::b", "3 times { raw::Q::[x,y] }", `\\\::::`, "tail::a::b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parse(s)
		if err == nil && l.what == frame && (l.times < 0 || l.times > maxTimes || l.verb < 'A' || l.verb > 'Z') {
			t.Errorf("%q: %+v", s, l)
		}
	})
}

func TestHistory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	var p past
	for i := range maxHistory + 10 {
		p.Add(fmt.Sprint(i))
	}
	p.Add(fmt.Sprint(maxHistory + 9)) // the same again
	if err := p.save(file); err != nil {
		t.Fatal(err)
	}
	var q past
	q.load(file)
	if q.Len() != maxHistory || q.At(0) != fmt.Sprint(maxHistory+9) || q.At(maxHistory-1) != "10" {
		t.Error(q.Len(), q.At(0))
	}
}
