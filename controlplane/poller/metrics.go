package poller

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of a poll, as metrics count them.
const (
	resultOK      = "ok"
	resultFailed  = "failed"  // the device did not answer, or not with what it should
	resultDropped = "dropped" // what was read is not stored: the poller was changed or taken over, or the database is away
)

// meters measure polls of this server.
type meters struct {
	polls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMeters() meters {
	return meters{
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_polls_total",
			Help: "Polls of BMCs and SNMP devices by this server, by the poller's kind and the result: ok, failed (the device), dropped (not stored).",
		}, []string{"kind", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "teeth_poll_seconds",
			Help:    "Time to read a device, whether it answered or not, by the poller's kind.",
			Buckets: []float64{0.05, 0.2, 0.5, 1, 2, 5, 15, 60, 300},
		}, []string{"kind"}),
	}
}

// observe takes note of a poll that took so long.
func (m meters) observe(kind, result string, took time.Duration) {
	m.polls.WithLabelValues(kind, result).Inc()
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}

var (
	busyDesc = prometheus.NewDesc("teeth_pollers_busy", "Devices that this server is reading.", nil, nil)
	mostDesc = prometheus.NewDesc("teeth_pollers_busy_max", "Devices that this server reads at a time at most; polls are late while it is reached.", nil, nil)
)

// Describe makes a Service a prometheus.Collector.
func (s *Service) Describe(ch chan<- *prometheus.Desc) {
	ch <- busyDesc
	ch <- mostDesc
	s.meters.polls.Describe(ch)
	s.meters.seconds.Describe(ch)
}

// Collect makes a Service a prometheus.Collector.
func (s *Service) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(busyDesc, prometheus.GaugeValue, float64(len(s.workers)))
	ch <- prometheus.MustNewConstMetric(mostDesc, prometheus.GaugeValue, float64(cap(s.workers)))
	s.meters.polls.Collect(ch)
	s.meters.seconds.Collect(ch)
}
