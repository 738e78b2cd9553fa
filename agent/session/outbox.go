package session

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	maxLogs     = 512       // messages kept while they cannot be sent
	maxLogSize  = 32 << 10  // bytes of one message's params
	maxLogBytes = 512 << 10 // bytes of all
	logWindow   = 32        // messages sent and not answered
)

// item is one message that waits to be sent or answered.
type item struct {
	method string
	params json.RawMessage
	task   string // of a task_status
	final  bool
	state  itemState
	call   *call // who waits for the answer; it is in no outbox
}

type itemState int

const (
	queued   itemState = iota
	inFlight           // sent on this connection, not answered
	rejected           // answered with an error; to be sent again after a while
)

// outbox keeps task_status and log messages until the server has answered them,
// over any number of connections.
type outbox struct {
	wake chan struct{} // holds a token when there may be something to send

	mu       sync.Mutex
	statuses []*item // in the order they were reported
	logs     []*item
	logBytes int
	dropped  int             // logs since the last that could be told of it
	waiting  []chan struct{} // closed when all is answered
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// report queues s. A newer status of a task replaces an older one that was not
// sent yet.
func (o *outbox) report(s teeth.TaskStatus) error {
	params, err := json.Marshal(s)
	if err != nil {
		return err
	}
	it := &item{method: teeth.MethodTaskStatus, params: params, task: s.TaskID, final: s.State.Final()}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, old := range o.statuses {
		switch {
		case old.task != it.task:
		case old.final: // nothing follows it, and it is on its way already
			return nil
		case old.state == queued && !it.final:
			o.statuses[i] = it
			o.signal()
			return nil
		}
	}
	o.statuses = slices.DeleteFunc(o.statuses, func(old *item) bool {
		return old.task == it.task && old.state == queued
	})
	o.statuses = append(o.statuses, it)
	o.signal()
	return nil
}

// log queues a log message, and drops the oldest for which there is no room.
func (o *outbox) log(msg string, fields map[string]any) {
	l := teeth.Log{Message: msg, Time: float64(time.Now().UnixMicro()) / 1e6, Fields: fields}
	params, err := json.Marshal(l)
	if err != nil {
		l.Fields = map[string]any{"fields_lost": err.Error()}
		params, _ = json.Marshal(l) // strings and a number cannot fail
	}
	if len(params) > maxLogSize {
		l.Fields = map[string]any{"cut_from_bytes": len(params)}
		l.Message = msg[:min(len(msg), maxLogSize/8)] // even with every byte escaped it is short enough now
		params, _ = json.Marshal(l)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logs = append(o.logs, &item{method: teeth.MethodLog, params: params})
	o.logBytes += len(params)
	for len(o.logs) > maxLogs || o.logBytes > maxLogBytes {
		// One that was sent may have arrived: it is not counted as dropped.
		if o.logs[0].state == queued {
			o.dropped++
		}
		o.removeLog(0)
	}
	o.signal()
}

// removeLog forgets the log message at i. o.mu is held.
func (o *outbox) removeLog(i int) {
	o.logBytes -= len(o.logs[i].params)
	o.logs = slices.Delete(o.logs, i, i+1)
}

// reset prepares for a new connection: what was not answered will be sent again,
// of a task only the last.
func (o *outbox) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := make(map[string]*item)
	for _, it := range o.statuses {
		last[it.task] = it
		it.state = queued
	}
	o.statuses = slices.DeleteFunc(o.statuses, func(it *item) bool { return last[it.task] != it })
	for _, it := range o.logs {
		it.state = queued
	}
	o.signal()
}

// retry lets those be sent again that the server answered with an error.
func (o *outbox) retry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, it := range o.statuses {
		if it.state == rejected {
			it.state = queued
		}
	}
	o.signal()
}

// next returns the next message to send, now in flight, or nil. Of a task no
// second running update is in flight: a slow server gets fewer.
func (o *outbox) next() *item {
	o.mu.Lock()
	defer o.mu.Unlock()
	busy := make(map[string]bool)
	for _, it := range o.statuses {
		if it.state == queued && (it.final || !busy[it.task]) {
			it.state = inFlight
			return it
		}
		busy[it.task] = true
	}
	if o.dropped > 0 && len(o.logs) > 0 && o.logs[0].state == queued {
		params, _ := json.Marshal(teeth.Log{
			Message: "log messages were dropped: there were too many to keep until the control plane could be reached",
			Time:    float64(time.Now().UnixMicro()) / 1e6,
			Fields:  map[string]any{"dropped": o.dropped},
		})
		o.dropped = 0
		it := &item{method: teeth.MethodLog, params: params, state: inFlight}
		o.logs = slices.Insert(o.logs, 0, it)
		o.logBytes += len(params)
		return it
	}
	for i, it := range o.logs {
		if i >= logWindow {
			return nil
		}
		if it.state == queued {
			it.state = inFlight
			return it
		}
	}
	return nil
}

// answered records the server's answer to an item. A final state that it refused
// is kept; everything else is done with. It reports whether a final state was
// delivered just now.
func (o *outbox) answered(it *item, refused bool) (delivered bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.signal()
	defer o.checkEmpty()
	if it.final && refused {
		it.state = rejected
		return false
	}
	if i := slices.Index(o.statuses, it); i >= 0 {
		o.statuses = slices.Delete(o.statuses, i, i+1)
		return it.final
	}
	if i := slices.Index(o.logs, it); i >= 0 {
		o.removeLog(i)
	}
	return false
}

// checkEmpty wakes those who wait for an empty outbox. o.mu is held.
func (o *outbox) checkEmpty() {
	if len(o.statuses)+len(o.logs) > 0 {
		return
	}
	for _, c := range o.waiting {
		close(c)
	}
	o.waiting = nil
}

// empty returns a channel that is closed when everything queued was answered.
func (o *outbox) empty() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := make(chan struct{})
	o.waiting = append(o.waiting, c)
	o.checkEmpty()
	return c
}

// discard forgets an item that cannot be sent at all.
func (o *outbox) discard(it *item) { o.answered(it, false) }
