package minion

import "github.com/prometheus/client_golang/prometheus"

// meters count what agents send and what becomes of it.
type meters struct {
	refused  *prometheus.CounterVec
	logins   *prometheus.CounterVec
	records  prometheus.Counter
	repeated prometheus.Counter
	again    prometheus.Counter
	dropped  *prometheus.CounterVec
	written  *prometheus.CounterVec
	failures *prometheus.CounterVec
	syncs    *prometheus.HistogramVec
}

func newMeters() meters {
	return meters{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_minion_connections_refused_total",
			Help: "Minion agents' connections closed before they were heard, by the limit that was reached.",
		}, []string{"reason"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_minion_authentications_total",
			Help: "Minion agents' connections by how they began: ok, denied, tls (TLS failed), protocol (no request to authenticate came).",
		}, []string{"result"}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "teeth_minion_records_total",
			Help: "Logs, telemetry and responses received of Minion agents.",
		}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "teeth_minion_repeated_total",
			Help: "Log lines that were the same as the one before and were counted instead of kept.",
		}),
		again: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "teeth_minion_sent_again_total",
			Help: "Records that an agent sent again although they were kept.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_minion_records_dropped_total",
			Help: "Records that were not kept: service or label (the group has no destination for it), response (nobody takes responses), shutdown (a destination failed until the server ended).",
		}, []string{"reason"}),
		written: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_minion_written_bytes_total",
			Help: "Bytes that destinations have taken.",
		}, []string{"destination"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_minion_write_failures_total",
			Help: "Tries to write to a destination that failed and were, or will be, repeated.",
		}, []string{"destination"}),
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "teeth_minion_sync_seconds",
			Help:    "Time to make written lines durable.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10},
		}, []string{"destination"}),
	}
}

func (m *meters) all() []prometheus.Collector {
	return []prometheus.Collector{m.refused, m.logins, m.records, m.repeated, m.again, m.dropped, m.written, m.failures, m.syncs}
}

var (
	openDesc     = prometheus.NewDesc("teeth_minion_connections", "Minion agents' connections to this server, with those that have not authenticated.", nil, nil)
	agentsDesc   = prometheus.NewDesc("teeth_minion_agents_connected", "Minion agents that are connected to this server.", nil, nil)
	waitingDesc  = prometheus.NewDesc("teeth_minion_waiting_bytes", "Bytes that a destination has not taken yet.", []string{"destination"}, nil)
	failingDesc  = prometheus.NewDesc("teeth_minion_destination_failing", "1 while a destination takes nothing, and agents wait.", []string{"destination"}, nil)
	descriptions = []*prometheus.Desc{openDesc, agentsDesc, waitingDesc, failingDesc}
)

// Describe makes a Server a prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
	for _, c := range s.meter.all() {
		c.Describe(ch)
	}
}

// Collect makes a Server a prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	agents := len(s.agents)
	s.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(s.peers.Open()))
	ch <- prometheus.MustNewConstMetric(agentsDesc, prometheus.GaugeValue, float64(agents))
	for _, q := range s.all() {
		bytes, _, failing := q.look()
		bad := 0.0
		if failing != nil {
			bad = 1
		}
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(bytes), q.label)
		ch <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, bad, q.label)
	}
	for _, c := range s.meter.all() {
		c.Collect(ch)
	}
}
