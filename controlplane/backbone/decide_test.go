package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *time.Time { t := start.Add(d); return &t }

const web = `{"web":{"version":"2","url":"http://h/web.deb","config":{"x":{"y":1}},"running":true}}`

// host is one that said, a minute after it was told revision 7 for the first time, what
// more sets in its status' data.
func host(state, more string) store.AppHost {
	status := fmt.Sprintf(`{"host_id":"h","status":%q,"host_agent":{"status":"running","version":"1"},"apps":{}%s}`, state, more)
	return store.AppHost{
		ID: "h", Host: "h", Transport: viaAMQP, State: state, Status: json.RawMessage(status),
		Desired: json.RawMessage(web), Revision: 7, Received: at(time.Minute), Sent: 7, SentAt: at(0), Attempts: 1,
	}
}

func TestDecide(t *testing.T) {
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	const has = `,"apps":{"web":{"version":"2","config":{"x":{"y":1,"z":2}},"running":true}}`
	report := func(r string) string { return `,"extensions":{"teeth":{"status":"ok","data":` + r + `}}` }
	for name, tt := range map[string]struct {
		h     store.AppHost
		set   func(*store.AppHost)
		now   time.Duration
		send  bool
		after bool
	}{
		"never told":                  {host("ok", ""), func(h *store.AppHost) { h.SentAt, h.Sent, h.Attempts = nil, 0, 0 }, time.Minute, true, false},
		"told, and still without":     {host("ok", ""), nil, time.Minute, true, false},
		"nothing desired":             {host("ok", ""), func(h *store.AppHost) { h.Desired = nil }, time.Minute, false, false},
		"never heard":                 {host("ok", ""), func(h *store.AppHost) { h.Status, h.Received = nil, nil }, time.Minute, false, false},
		"has it":                      {host("ok", has), nil, time.Minute, false, false},
		"away":                        {host("ok", ""), nil, time.Minute + 211*time.Second, false, false},
		"just not away":               {host("ok", ""), nil, time.Minute + 209*time.Second, true, false},
		"its own, slow heartbeat":     {host("ok", report(`{"heartbeat":600}`)), nil, 30 * time.Minute, true, false},
		"works on it":                 {host("converging", `,"desired_apps":`+web), nil, time.Minute, false, false},
		"works on it, says revision":  {host("retrying", report(`{"revision":7}`)), nil, time.Minute, false, false},
		"works on something else":     {host("converging", `,"desired_apps":{}`), nil, time.Minute, true, false},
		"works on an older revision":  {host("converging", `,"desired_apps":`+web+report(`{"revision":6}`)), nil, time.Minute, true, false},
		"document, works":             {host("converging", ""), nil, time.Minute, false, false},
		"document, works before told": {host("converging", ""), func(h *store.AppHost) { h.Sent = 6 }, time.Minute, true, false},
		"document, errors":            {host("errors", ""), nil, time.Minute, true, false},
		"refused":                     {host("ok", report(`{"refused":{"revision":7,"reason":"no"}}`)), nil, time.Minute, false, false},
		"refused an older one":        {host("ok", report(`{"refused":{"revision":6,"reason":"no"}}`)), nil, time.Minute, true, false},
		"has it, and wants more":      {host("failed", has+`,"desired_apps":{"web":{"version":"2"},"bad":{"version":"1"}}`), func(h *store.AppHost) { h.Sent = 6 }, time.Minute, true, false},
		"has it, document, errors":    {host("errors", has), nil, time.Minute, true, false},
		"has it, of another revision": {host("ok", has+report(`{"revision":6}`)), nil, time.Minute, true, false},
		"has it, of this revision":    {host("ok", has+report(`{"revision":7}`)), nil, time.Minute, false, false},
		// Its limits, or the digest of its package, are other ones in revision 7.
		"looks like it, and works on it": {host("converging", has+report(`{"revision":7}`)), nil, time.Minute, false, false},
		"looks like it, and gave up":     {host("failed", has+report(`{"revision":7}`)), func(h *store.AppHost) { h.Received = at(6 * time.Minute) }, 6 * time.Minute, true, false},
		"said nothing since":             {host("ok", ""), func(h *store.AppHost) { h.Received = at(-time.Second) }, time.Minute, false, false},
		"said it too soon":               {host("ok", ""), func(h *store.AppHost) { h.Received = at(time.Second) }, 2 * time.Second, false, false},
		"second time, too soon":          {host("ok", ""), func(h *store.AppHost) { h.Attempts = 4 }, time.Minute, false, false},
		"given up":                       {host("failed", `,"desired_apps":`+web), nil, time.Minute, false, false},
		"given up long ago":              {host("failed", `,"desired_apps":`+web), func(h *store.AppHost) { h.Received = at(6 * time.Minute) }, 6 * time.Minute, true, false},
		"changed at once again":          {host("ok", ""), func(h *store.AppHost) { h.Revision = 8 }, time.Second / 2, false, true},
		"changed after a while":          {host("ok", ""), func(h *store.AppHost) { h.Revision = 8 }, 2 * time.Second, true, false},
		"could not be told":              {host("ok", ""), func(h *store.AppHost) { h.Error, h.Received = "broker away", at(-time.Second) }, time.Second, false, true},
		"could not be told before":       {host("ok", ""), func(h *store.AppHost) { h.Error, h.Received = "broker away", at(-time.Second) }, 6 * time.Second, true, false},
		"our clock was set back":         {host("ok", ""), nil, -time.Hour, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.set != nil {
				tt.set(&tt.h)
			}
			send, after := m.decide(parse(tt.h), start.Add(tt.now))
			if send != tt.send || (after > 0) != tt.after {
				t.Errorf("send %v, after %v", send, after)
			}
		})
	}
}

// What is desired may differ from what is there in what the apps do not show. A host
// that is at it, or that has failed to, does not have it.
func TestSettledIsDone(t *testing.T) {
	const more = `,"apps":{"web":{"version":"2","config":{"x":{"y":1}},"running":true}},"extensions":{"teeth":{"status":"ok","data":{"revision":7}}}`
	for state, want := range map[string]bool{"ok": true, "converging": false, "retrying": false, "failed": false} {
		if got := parse(host(state, more)).settled(); got != want {
			t.Errorf("%s: settled %v", state, got)
		}
	}
}

// TestBackoffOfAHost tells a host that never changes for a day, with a status a minute.
func TestBackoffOfAHost(t *testing.T) {
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := host("ok", "")
	h.SentAt, h.Sent, h.Attempts = nil, 0, 0
	told := 0
	for minute := range 24 * 60 {
		now := start.Add(time.Duration(minute) * time.Minute)
		h.Received = &now
		if send, _ := m.decide(parse(h), now); send {
			told++
			h.Attempts++
			sent := now
			h.Sent, h.SentAt = h.Revision, &sent
		}
	}
	if told < 24*3 || told > 24*5 { // every quarter of an hour, a tenth more or less
		t.Errorf("told %d times a day", told)
	}
}

func TestJudge(t *testing.T) {
	known := func(set func(*store.AppHost)) store.AppHost {
		h := host("ok", "")
		h.Told, h.Received = at(0), at(0)
		if set != nil {
			set(&h)
		}
		return h
	}
	status := func(told, came time.Duration, set func(*incoming)) incoming {
		in := incoming{id: store.AppStatus{Host: "h"}, told: at(told), at: start.Add(came), transport: viaAMQP}
		if set != nil {
			set(&in)
		}
		return in
	}
	report := func(boot string, n int64) func(*incoming) {
		return func(in *incoming) { in.report = &wire.Report{BootID: boot, Sequence: n} }
	}
	booted := func(h *store.AppHost) { h.BootID, h.Sequence = "b", 5 }
	behind := func(told, came time.Duration) func(*store.AppHost) {
		return func(h *store.AppHost) { h.Behind, h.BehindAt = at(told), at(came) }
	}
	for name, tt := range map[string]struct {
		h    store.AppHost
		in   incoming
		want verdict
	}{
		"first":                      {store.AppHost{}, status(-time.Hour, 0, nil), fresh},
		"newer":                      {known(nil), status(time.Second, time.Second, nil), fresh},
		"the same again":             {known(nil), status(0, time.Second, nil), fresh},
		"older":                      {known(nil), status(-time.Minute, time.Second, nil), stale},
		"without a time":             {known(nil), status(0, time.Second, func(in *incoming) { in.told = nil }), fresh},
		"older, over a session":      {known(func(h *store.AppHost) { h.Transport = viaSession }), status(-time.Minute, time.Second, func(in *incoming) { in.transport = viaSession }), fresh},
		"older, by another way":      {known(func(h *store.AppHost) { h.Transport = viaSession }), status(-time.Minute, time.Second, nil), fresh},
		"older, another slave":       {known(nil), status(-time.Minute, time.Second, func(in *incoming) { in.id.Host = "other" }), fresh},
		"next of a start":            {known(booted), status(-time.Hour, time.Second, report("b", 6)), fresh},
		"the same of a start":        {known(booted), status(time.Hour, time.Second, report("b", 5)), stale},
		"earlier of a start":         {known(booted), status(time.Hour, time.Second, report("b", 4)), stale},
		"a new start":                {known(booted), status(-time.Hour, time.Second, report("c", 1)), fresh},
		"clock set back, second":     {known(behind(-time.Hour, time.Minute)), status(-time.Hour+time.Minute, 2*time.Minute, nil), clockSet},
		"clock set back, about":      {known(behind(-time.Hour, time.Minute)), status(-time.Hour+59*time.Second, 2*time.Minute, nil), clockSet},
		"backlog, all at once":       {known(behind(-time.Hour, time.Minute)), status(-time.Hour+time.Minute, time.Minute+time.Millisecond, nil), stale},
		"backlog, slowly":            {known(behind(-time.Hour, time.Minute)), status(-time.Hour+time.Minute, time.Minute+5*time.Second, nil), stale},
		"clock set back, long since": {known(nil), status(-time.Hour, 6*time.Minute, nil), clockSet},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(&tt.h, tt.in, true); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

// TestClockSetBack has a host whose clock is set back by an hour between two statuses:
// it is heard again with the second one.
func TestClockSetBack(t *testing.T) {
	h := store.AppHost{Host: "h"}
	var got []verdict
	for i := range 6 {
		came := time.Duration(i) * time.Minute
		told := came
		if i >= 3 {
			told -= time.Hour
		}
		in := incoming{id: store.AppStatus{Host: "h"}, told: at(told), at: start.Add(came), transport: viaAMQP, raw: json.RawMessage(`{}`)}
		v := judge(&h, in, true)
		apply(&h, in, v)
		got = append(got, v)
	}
	if want := []verdict{fresh, fresh, fresh, stale, clockSet, fresh}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestRefusalOfRabbitMQ43 holds that its refusal is known by what it says, and that a
// failure of another kind is not taken for it.
func TestRefusalOfRabbitMQ43(t *testing.T) {
	err := explain(fmt.Errorf("declare queue q: %w", &amqp.Error{Code: 541, Reason: "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is not permitted anymore."}))
	if !errors.Is(err, ErrTransientQueues) || !strings.Contains(err.Error(), "deprecated_features.permit.transient_nonexcl_queues = true in rabbitmq.conf") {
		t.Error(err)
	}
	for _, e := range []error{&amqp.Error{Code: 541, Reason: "INTERNAL_ERROR"}, &amqp.Error{Code: 406, Reason: "transient_nonexcl_queues"}, errors.New("transient_nonexcl_queues")} {
		if err := explain(e); errors.Is(err, ErrTransientQueues) {
			t.Error(err)
		}
	}
	if err := explain(&amqp.Error{Code: 403, Reason: "ACCESS_REFUSED"}); !strings.Contains(err.Error(), "allow it to configure") {
		t.Error(err)
	}
}
