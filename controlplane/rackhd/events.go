package rackhd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// errUntellable marks a notice that can never become a message.
var errUntellable = errors.New("it makes no message")

// external is where events go whose chassis is not known.
const external = "external"

// told returns the messages that tell of a notice.
func (s *Service) told(ctx context.Context, n store.Notice) ([]bus.Message, error) {
	var data object
	if err := json.Unmarshal(n.Data, &data); err != nil {
		return nil, fmt.Errorf("%w: %w", errUntellable, err)
	}
	if data == nil {
		data = object{}
	}
	t := teller{n: n, data: data, node: rackhd.NodeID(n.Chassis), v: s.c.Settings.Values()}
	if graph := graphOf(n, data); graph != "" {
		var err error
		if t.domain, err = s.domain(ctx, graph); err != nil {
			return nil, err
		}
	}
	t.tell()
	if t.err != nil {
		return nil, fmt.Errorf("%w: %w", errUntellable, t.err)
	}
	return t.messages, nil
}

func graphOf(n store.Notice, data object) string {
	switch n.Kind {
	case store.NoticeGraphStarted, store.NoticeGraphEnded:
		return n.Subject
	case store.NoticeTaskStarted, store.NoticeTaskEnded:
		id, _ := data["graphId"].(string)
		return id
	}
	return ""
}

// teller turns one notice into messages.
type teller struct {
	n        store.Notice
	data     object
	node     string // "" without a chassis
	domain   string // of the graph
	v        settings.Values
	messages []bus.Message
	err      error
}

// say adds a message. What has happened must arrive, so it outlives the broker's
// restart in queues that do.
func (t *teller) say(exchange, key string, body any) {
	m, err := message(exchange, key, body)
	if err == nil && len(key) > 255 {
		err = fmt.Errorf("routing key %.80q has more than 255 bytes", key)
	}
	if err != nil {
		t.err = errors.Join(t.err, err)
		return
	}
	m.Persistent = true
	t.messages = append(t.messages, m)
}

// outside adds an event in the external format.
func (t *teller) outside(typ, action, severity, id string, data object) {
	if !t.v.ExternalEvents {
		return
	}
	e := rackhd.NewEvent(typ, action, severity, id, t.node, t.n.Time, data)
	t.say(rackhd.Events, e.Key(), e)
}

// ofNode adds an external event about the chassis.
func (t *teller) ofNode(action, severity string, more object) {
	data := object{"nodeType": "compute", "nodeId": t.node, "chassis": t.n.Chassis}
	for k, v := range more {
		data[k] = v
	}
	t.outside("node", action, severity, t.node, data)
}

func (t *teller) tell() {
	n, data := t.n, t.data
	whose := cmp.Or(t.node, external)
	switch n.Kind {
	case store.NoticeDiscovered:
		t.ofNode("discovered", rackhd.Information, data)
		t.ofNode("added", rackhd.Information, data)
	case store.NoticeApproved:
		t.ofNode("updated", rackhd.Information, object{"approved": true})
	case store.NoticeRemoved:
		t.ofNode("removed", rackhd.Information, data)
	case store.NoticeConnected:
		t.ofNode("accessible", rackhd.Information, data)
	case store.NoticeDisconnected:
		t.ofNode("inaccessible", t.v.SeverityInaccessible, data)
	case store.NoticeInspected:
		t.ofNode("updated", rackhd.Information, data)
	case store.NoticeSKU:
		t.say(rackhd.Events, "sku.assigned."+whose, data)
		t.ofNode("sku.assigned", rackhd.Information, data)
	case store.NoticeGraphStarted:
		t.graph("started", rackhd.Information)
		t.say(rackhd.TaskGraphRunner, "methods.runTaskGraph."+t.domain, object{"graphId": n.Subject})
	case store.NoticeGraphEnded:
		severity := rackhd.Information
		if data["status"] != store.Succeeded {
			severity = t.v.SeverityGraphFailed
		}
		t.graph("finished", severity)
	case store.NoticeTaskStarted:
		run := object{"taskId": n.Subject, "taskName": data["taskName"], "graphId": data["graphId"], "graphName": data["graphName"]}
		t.say(rackhd.Task, "run."+n.Subject, rackhd.Result{Value: run})
		t.say(rackhd.Task, "methods.run."+n.Subject, rackhd.Result{Value: run})
		t.say(rackhd.Task, t.domain+".methods.run", object{"taskId": n.Subject, "graphId": data["graphId"]})
	case store.NoticeTaskCancel:
		cancel := object{"taskId": n.Subject}
		t.say(rackhd.Task, "cancel."+n.Subject, cancel)
		t.say(rackhd.Task, "methods.cancel."+n.Subject, rackhd.Result{Value: cancel})
		t.say(rackhd.Task, "methods.cancel", cancel)
	case store.NoticeTaskEnded:
		t.taskEnded()
	case store.NoticeTFTPSent:
		t.say(rackhd.Events, "tftp.success."+whose, data)
	case store.NoticeTFTPFailed:
		t.say(rackhd.Events, "tftp.failure."+whose, data)
	case store.NoticeHTTP:
		if t.v.HTTPEvents {
			t.say(rackhd.Events, "http.response."+whose, data)
			t.say(rackhd.HTTP, "http.response", data)
		}
	case store.NoticeDHCPBound:
		t.say(rackhd.Events, "dhcp.bind.success."+whose, data)
	case store.NoticeFromNode:
		if t.node == "" {
			t.say(rackhd.Events, "notification", data)
			return
		}
		data["nodeId"] = t.node
		t.say(rackhd.Events, "notification."+t.node, data)
	case store.NoticeAlert:
		t.alert()
	}
}

// graph tells of a graph in both formats. The keys of both begin alike.
func (t *teller) graph(action, severity string) {
	data := object{"graphId": t.n.Subject, "graphName": t.data["graphName"], "status": t.data["status"]}
	t.say(rackhd.Events, "graph."+action+"."+t.n.Subject, data)
	t.outside("graph", action, severity, t.n.Subject, data)
}

func (t *teller) taskEnded() {
	data := object{"taskId": t.n.Subject}
	for k, v := range t.data {
		data[k] = v
	}
	if c, ok := data["context"].(map[string]any); ok && t.node != "" {
		c["target"] = t.node
	}
	t.say(rackhd.Events, "task.finished."+t.n.Subject, data)
	t.say(rackhd.Events, t.domain+".task.finished", data)
}

// alert tells of a poller's alert: under the document's name, that of later
// versions, which has the poller's kind in it, and as an external event.
func (t *teller) alert() {
	kind, _ := t.data["kind"].(string)
	kind = cmp.Or(word(kind), "poller")
	severity, _ := t.data["severity"].(string)
	if over := t.data["state"] == "cleared"; over || severity != rackhd.Warning && severity != rackhd.Critical {
		severity = rackhd.Information
	}
	t.say(rackhd.Events, "poller.alert."+t.n.Subject, rackhd.Result{Value: t.data})
	t.say(rackhd.Events, "poller.alert."+kind+"."+t.n.Subject, rackhd.Result{Value: t.data})
	t.outside("polleralert", kind+".updated", severity, t.n.Subject, t.data)
}

// word keeps of s what may be one word of a routing key.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, s)
}

// service is this program's name in its heartbeats.
const service = "teeth"

func (s *Service) publishHeartbeat(ctx context.Context, every time.Duration) error {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	now := time.Now()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e := rackhd.NewEvent("heartbeat", "updated", rackhd.Information, host+"."+service, "", now, object{
		"name": service, "title": service, "pid": os.Getpid(), "uid": os.Getuid(), "platform": runtime.GOOS,
		"release":     object{"name": service, "version": s.c.Version},
		"versions":    object{"go": runtime.Version(), service: s.c.Version},
		"memoryUsage": object{"heapTotal": mem.HeapSys, "heapUsed": mem.HeapInuse, "rss": mem.Sys},
		"currentTime": rackhd.Timestamp(now), "lastUpdate": rackhd.Timestamp(now.Add(-every)), "nextUpdate": rackhd.Timestamp(now.Add(every)),
		"server": s.c.Store.Server(), "startTime": rackhd.Timestamp(s.started), "cpuUsage": cpuUsage(),
	})
	return s.publish(ctx, rackhd.Events, e.Key(), e)
}
