package bus

import "github.com/prometheus/client_golang/prometheus"

// collector shows a bus's Stats.
type collector struct{ Bus }

// Collector returns what shows a bus in the metrics.
func Collector(b Bus) prometheus.Collector { return collector{b} }

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("teeth_bus_"+name, help, nil, nil)
}

var (
	descConnected  = desc("connected", "1 if the message bus is connected.")
	descBlocked    = desc("blocked", "1 if the broker takes no messages: it is out of memory or disk.")
	descOutbox     = desc("outbox_messages", "Messages that the broker has not confirmed yet.")
	descPublished  = desc("published_total", "Messages that the broker has taken over.")
	descRefused    = desc("refused_total", "Messages not accepted because the outbox was full.")
	descRepeated   = desc("repeated_total", "Messages sent again because a connection was lost before the confirm.")
	descReceived   = desc("received_total", "Messages received.")
	descDiscarded  = desc("discarded_total", "Messages received and not acted on: too large, or delivered before.")
	descReconnects = desc("reconnects_total", "Attempts to connect again.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.Stats()
	number := map[bool]float64{true: 1}
	for _, m := range []struct {
		desc  *prometheus.Desc
		kind  prometheus.ValueType
		value float64
	}{
		{descConnected, prometheus.GaugeValue, number[s.Connected]},
		{descBlocked, prometheus.GaugeValue, number[s.Blocked]},
		{descOutbox, prometheus.GaugeValue, float64(s.Outbox)},
		{descPublished, prometheus.CounterValue, float64(s.Published)},
		{descRefused, prometheus.CounterValue, float64(s.Refused)},
		{descRepeated, prometheus.CounterValue, float64(s.Repeated)},
		{descReceived, prometheus.CounterValue, float64(s.Received)},
		{descDiscarded, prometheus.CounterValue, float64(s.Discarded)},
		{descReconnects, prometheus.CounterValue, float64(s.Reconnects)},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value)
	}
}
