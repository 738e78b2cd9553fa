package agent

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	taskInterval = 10 * time.Second // between two lines of a task that only say how far it is
	maxTasks     = 1024             // whose methods are known
	maxResult    = 32 << 10         // bytes of a result in a line
)

// secretParams is what the kernel prints of its command line and nobody else may see.
var secretParams = regexp.MustCompile(`(teeth\.(?:token|minion_key|backbone)=)("[^"]*"?|\S+)`)

// secretsOf returns the secrets of the command line as they are.
func secretsOf(o boot.Options) (all []string) {
	for _, s := range []string{o.Token, o.Minion.Key, o.Backbone.URL} {
		if len(s) > 3 { // or every other word would be one
			all = append(all, s)
		}
	}
	return all
}

// hide takes secrets out of a message of the kernel.
func hide(text string, secrets []string) string {
	for _, s := range secrets { // first: parameters may be quoted in ways of their own
		text = strings.ReplaceAll(text, s, "(secret)")
	}
	return secretParams.ReplaceAllString(text, "${1}(secret)")
}

// taskLines makes lines of the statuses of tasks.
type taskLines struct {
	mu    sync.Mutex
	known map[string]*taskLine
}

type taskLine struct {
	method string
	step   string
	said   time.Time
}

// started notes which method a task is of.
func (l *taskLines) started(id, method string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxTasks {
		l.known = map[string]*taskLine{}
	}
	if l.known[id] == nil {
		l.known[id] = &taskLine{method: method}
	}
}

// line returns what there is to say of a task, false if that was just said. It is
// said when it begins, takes a step or ends, and every taskInterval.
func (l *taskLines) line(s teeth.TaskStatus, now time.Time) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.known[s.TaskID]
	if t == nil {
		t = &taskLine{}
	}
	if s.State.Final() {
		delete(l.known, s.TaskID)
	} else if !t.said.IsZero() && t.step == s.Step && now.Sub(t.said) < taskInterval {
		return "", false
	}
	t.step, t.said = s.Step, now
	var b strings.Builder
	fmt.Fprintf(&b, "task=%s method=%s state=%s", quoted(s.TaskID), quoted(t.method), s.State)
	if s.Percent != nil {
		fmt.Fprintf(&b, " percent=%.1f", *s.Percent)
	}
	if s.ETA != nil {
		fmt.Fprintf(&b, " eta=%.0fs", *s.ETA)
	}
	if s.Step != "" {
		fmt.Fprintf(&b, " step=%s", quoted(s.Step))
	}
	if s.Msg != "" {
		fmt.Fprintf(&b, " error=%q", s.Msg)
	}
	if len(s.Result) > 0 {
		result := string(s.Result)
		if len(result) > maxResult {
			result = strings.ToValidUTF8(result[:maxResult], "") + fmt.Sprintf("… (%d bytes more)", len(result)-maxResult)
		}
		b.WriteString(" result=" + strings.ReplaceAll(result, "\n", " "))
	}
	return b.String(), true
}

// quoted returns s as one word.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\r\n\"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// task takes a status of a task. It does not wait: the task would.
func (r *records) task(s teeth.TaskStatus) {
	if r == nil {
		return
	}
	if text, ok := r.tasks.line(s, time.Now()); ok {
		r.client.Log(serviceTask, text)
	}
}

// taskStarted notes which method a task is of.
func (r *records) taskStarted(id, method string) {
	if r != nil {
		r.tasks.started(id, method)
	}
}
