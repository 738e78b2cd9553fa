package backbone

import "github.com/prometheus/client_golang/prometheus"

type meters struct {
	statuses  *prometheus.CounterVec
	sent      *prometheus.CounterVec
	unsettled prometheus.Gauge
}

func newMeters() meters {
	return meters{
		statuses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_backbone_statuses_total", Help: "Statuses of apps received: taken, stale, malformed, of a stranger too many, or astray: of a chassis that is heard over its session."}, []string{"outcome"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_backbone_configs_total", Help: "Messages that told a host which apps it is to have: ok or failed."}, []string{"outcome"}),
		unsettled: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "teeth_backbone_unsettled_hosts", Help: "Hosts whose apps are not as desired."}),
	}
}

// Describe implements prometheus.Collector.
func (m *Master) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *Master) Collect(ch chan<- prometheus.Metric) {
	m.meters.statuses.Collect(ch)
	m.meters.sent.Collect(ch)
	m.meters.unsettled.Collect(ch)
}
