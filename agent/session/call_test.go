package session

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestCall(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		if _, err := b.Call(t.Context(), "records", nil); !errors.Is(err, ErrLost) {
			t.Errorf("without a session: %v", err)
		}
		p := b.accept().welcome()
		synctest.Wait() // until the agent has read it
		type answer struct {
			result json.RawMessage
			err    error
		}
		call := func(ctx context.Context, params any) chan answer {
			c := make(chan answer, 1)
			go func() {
				r, err := b.Call(ctx, "records", params)
				c <- answer{r, err}
			}()
			return c
		}
		one := call(t.Context(), map[string]int{"a": 1})
		m := p.expect("records")
		if string(m.Params) != `{"a":1}` && string(m.Params) != `{"a": 1}` {
			t.Errorf("%s", m.Params)
		}
		p.result(m, map[string]int{"b": 2})
		if a := <-one; a.err != nil || !strings.Contains(string(a.result), "2") {
			t.Errorf("%s, %v", a.result, a.err)
		}

		two := call(t.Context(), struct{}{})
		p.refuse(p.expect("records"), "not now")
		var refused *teeth.MethodError
		if a := <-two; !errors.As(a.err, &refused) || refused.Msg != "not now" {
			t.Errorf("%v", a.err)
		}

		if a := <-call(t.Context(), strings.Repeat("x", teeth.MaxLine)); a.err == nil {
			t.Error("a line that is too long was sent")
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		three := call(ctx, struct{}{})
		late := p.expect("records")
		if a := <-three; !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("%v", a.err)
		}
		p.result(late, struct{}{}) // nobody waits, and that is no violation

		four := call(t.Context(), struct{}{})
		p.expect("records")
		p.nc.Close()
		if a := <-four; !errors.Is(a.err, ErrLost) {
			t.Errorf("%v", a.err)
		}
		b.accept().welcome() // and it is not sent again
	})
}
