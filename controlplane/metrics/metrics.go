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
	bytes    *prometheus.CounterVec
	dhcp     *prometheus.CounterVec
	tftp     *prometheus.CounterVec
	tftpSent prometheus.Counter
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
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_http_response_bytes_total",
			Help: "Bytes of the bodies of HTTP responses, by interface and route.",
		}, []string{"interface", "route"}),
		dhcp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_dhcp_messages_total",
			Help: "DHCPv4 messages taken in, by their type and that of the answer, empty if there was none.",
		}, []string{"message", "answer"}),
		tftp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_tftp_transfers_total",
			Help: "TFTP transfers that have ended, by result: ok, failed.",
		}, []string{"result"}),
		tftpSent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "teeth_tftp_sent_bytes_total",
			Help: "Bytes of the files that TFTP transfers have sent to their end.",
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "teeth_build_info",
		Help: "1; the labels say what runs.",
	}, []string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.requests, m.seconds, m.bytes, m.dhcp, m.tftp, m.tftpSent, build,
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
func (m *Metrics) Requests(iface string) func(route string, status int, took time.Duration, sent int64) {
	which := prometheus.Labels{"interface": iface}
	requests, seconds, bytes := m.requests.MustCurryWith(which), m.seconds.MustCurryWith(which), m.bytes.MustCurryWith(which)
	return func(route string, status int, took time.Duration, sent int64) {
		requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
		seconds.WithLabelValues(route).Observe(took.Seconds())
		bytes.WithLabelValues(route).Add(float64(sent))
	}
}

// DHCP counts a message and the type of its answer, "" if there is none.
func (m *Metrics) DHCP(message, answer string) { m.dhcp.WithLabelValues(message, answer).Inc() }

// TFTP counts a transfer of so many bytes that has ended.
func (m *Metrics) TFTP(size int64, err error) {
	if err != nil {
		m.tftp.WithLabelValues("failed").Inc()
		return
	}
	m.tftp.WithLabelValues("ok").Inc()
	m.tftpSent.Add(float64(size))
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
