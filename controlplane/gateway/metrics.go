package gateway

import "github.com/prometheus/client_golang/prometheus"

// meters count what happens to connections.
type meters struct {
	refused    *prometheus.CounterVec
	handshakes *prometheus.CounterVec
}

func newMeters() meters {
	return meters{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_agent_connections_refused_total",
			Help: "Agents' connections closed before TLS, by the limit that was reached.",
		}, []string{"reason"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_agent_handshakes_total",
			Help: "Agents' connections by how they began: ok, tls (TLS failed), refused (the handshake did).",
		}, []string{"result"}),
	}
}

var (
	connectedDesc = prometheus.NewDesc("teeth_agents_connected", "Chassis whose agent has a session on this server.", nil, nil)
	openDesc      = prometheus.NewDesc("teeth_agent_connections", "Agents' connections to this server, with those that have no session yet.", nil, nil)
)

// Describe makes a Gateway a prometheus.Collector.
func (g *Gateway) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectedDesc
	ch <- openDesc
	g.meters.refused.Describe(ch)
	g.meters.handshakes.Describe(ch)
}

// Collect makes a Gateway a prometheus.Collector.
func (g *Gateway) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	connected := len(g.sessions)
	g.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(connectedDesc, prometheus.GaugeValue, float64(connected))
	ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(g.peers.Open()))
	g.meters.refused.Collect(ch)
	g.meters.handshakes.Collect(ch)
}
