package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogLine is a log line of a chassis, or of another of Minion's agents.
type LogLine struct {
	Seq      int64     `json:"seq"` // ascends in the order of arrival
	ID       string    `json:"id"`
	Server   string    `json:"server"` // the chassis' id
	Service  string    `json:"service"`
	Message  string    `json:"message"`
	Time     time.Time `json:"time"`     // by the chassis' clock
	Received time.Time `json:"received"` // by the database's
}

// LogFilter selects log lines. What is empty selects all.
type LogFilter struct {
	Chassis      []string // any of them, by any of their names
	Servers      []string // agents that are no chassis
	Services     []string
	Since, Until time.Time // the line's own time, or that of its arrival
	Text         string    // words, all of which are in the message
	Regexp       string    // what the message matches, in the syntax of RE2
	Newest       int       // if not 0, only so many, the newest; FollowLogs begins with at most 1000
}

func (f LogFilter) query() url.Values {
	q := url.Values{}
	for name, list := range map[string][]string{"chassis": f.Chassis, "server": f.Servers, "service": f.Services} {
		if len(list) > 0 {
			q[name] = list
		}
	}
	for name, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	for name, text := range map[string]string{"text": f.Text, "regexp": f.Regexp} {
		if text != "" {
			q.Set(name, text)
		}
	}
	if f.Newest > 0 {
		q.Set("newest", "true")
		q.Set("limit", strconv.Itoa(min(f.Newest, 1000)))
	}
	return q
}

// Logs calls do with log lines, in the order in which they arrived, until there are no
// more, ctx ends, or do returns an error, which Logs then returns.
func (c *Client) Logs(ctx context.Context, f LogFilter, do func(LogLine) error) error {
	q := f.query()
	if f.Newest > 0 {
		lines, err := c.newest(ctx, q, f.Newest)
		for _, l := range lines {
			if err == nil {
				err = do(l)
			}
		}
		return err
	}
	q.Set("limit", "1000")
	for {
		var page logPage
		if err := c.call(ctx, http.MethodGet, "/v1/logs", q, nil, &page); err != nil {
			return err
		}
		for _, l := range page.Items {
			if err := do(l); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		q.Set("page", page.Next)
	}
}

type logPage struct {
	Items   []LogLine `json:"items"`
	Next    string    `json:"next"`
	More    bool      `json:"more"`
	Earlier string    `json:"earlier"`
}

// newest returns the newest n lines, or all there are if those are fewer.
func (c *Client) newest(ctx context.Context, q url.Values, n int) (lines []LogLine, err error) {
	for {
		q.Set("limit", strconv.Itoa(min(n-len(lines), 1000)))
		var page logPage
		if err := c.call(ctx, http.MethodGet, "/v1/logs", q, nil, &page); err != nil {
			return nil, err
		}
		lines = append(page.Items, lines...)
		switch {
		case len(lines) >= n:
			return lines, nil
		case page.More:
			q.Set("before", page.Earlier)
		case len(page.Items) > 0: // a page was full
			q.Set("before", strconv.FormatInt(page.Items[0].Seq, 10))
		default:
			return lines, nil
		}
	}
}

// FollowLogs is Logs that goes on with lines as they arrive. A server that goes away is
// waited for up to five minutes; no line is missed.
func (c *Client) FollowLogs(ctx context.Context, f LogFilter, do func(LogLine) error) error {
	q := f.query()
	q.Set("follow", "true")
	return c.follow(ctx, "/v1/logs", q, func(kind string, data []byte) error {
		if kind != "line" {
			return nil
		}
		var l LogLine
		if err := json.Unmarshal(data, &l); err != nil {
			return err
		}
		return do(l)
	})
}

// Measurement is telemetry of a chassis.
type Measurement struct {
	Server   string          `json:"server"`
	Label    string          `json:"label"`
	Data     json.RawMessage `json:"data"` // a list of texts, or any JSON
	Time     time.Time       `json:"time"`
	Received time.Time       `json:"received"`
}

// Telemetry returns the newest measurement of each label of a chassis.
func (c *Client) Telemetry(ctx context.Context, chassis string) ([]Measurement, error) {
	return c.measurements(ctx, url.Values{"chassis": {chassis}})
}

// Measurements returns up to limit measurements of a chassis since a time, oldest first;
// of one label, if that is not "".
func (c *Client) Measurements(ctx context.Context, chassis, label string, since time.Time, limit int) ([]Measurement, error) {
	q := url.Values{"chassis": {chassis}, "since": {since.UTC().Format(time.RFC3339Nano)}, "limit": {strconv.Itoa(limit)}}
	if label != "" {
		q.Set("label", label)
	}
	return c.measurements(ctx, q)
}

func (c *Client) measurements(ctx context.Context, q url.Values) ([]Measurement, error) {
	var out struct {
		Items []Measurement `json:"items"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/telemetry", q, nil, &out)
	return out.Items, err
}
