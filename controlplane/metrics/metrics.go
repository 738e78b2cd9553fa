// Package metrics shows how a control plane is doing, in the form that Prometheus
// reads. A part that has something to show is a prometheus.Collector, which
// Register adds. All names begin with teeth_, but for those of the Go runtime and
// the process.
package metrics

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are those of one server.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New returns metrics of the Go runtime, the process and the build; version is of
// the server's software.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_http_requests_total",
			Help: "HTTP requests answered, by interface (api, boot), route and status; route is empty where there is none for the request, and status 499 a client that did not wait.",
		}, []string{"interface", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "teeth_http_request_seconds",
			Help:    "Time to answer an HTTP request to its end, which for event streams and images is long, by interface and route.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600},
		}, []string{"interface", "route"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "teeth_build_info",
		Help: "1; the labels say what runs.",
	}, []string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.requests, m.seconds, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Register adds what the parts of a server show. A part that shows nothing, which
// is no prometheus.Collector, is passed over.
func (m *Metrics) Register(parts ...any) error {
	for _, p := range parts {
		c, ok := p.(prometheus.Collector)
		if !ok {
			continue
		}
		if err := m.registry.Register(c); err != nil {
			return fmt.Errorf("metrics of %T: %w", p, err)
		}
	}
	return nil
}

// Requests returns what is to be told of every request that an interface has
// answered. A route is a pattern of http.ServeMux, so there is a bounded number.
func (m *Metrics) Requests(iface string) func(route string, status int, took time.Duration) {
	requests, seconds := m.requests.MustCurryWith(prometheus.Labels{"interface": iface}), m.seconds.MustCurryWith(prometheus.Labels{"interface": iface})
	return func(route string, status int, took time.Duration) {
		requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
		seconds.WithLabelValues(route).Observe(took.Seconds())
	}
}

// Handler answers scrapes. One that cannot read a part, the database perhaps, gets
// the others.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})
}
