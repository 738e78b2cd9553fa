package metrics

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type part struct{ fail bool }

var partDesc = prometheus.NewDesc("teeth_part", "A part.", nil, nil)

func (p *part) Describe(ch chan<- *prometheus.Desc) { ch <- partDesc }
func (p *part) Collect(ch chan<- prometheus.Metric) {
	if p.fail {
		ch <- prometheus.NewInvalidMetric(partDesc, errors.New("database is away"))
		return
	}
	ch <- prometheus.MustNewConstMetric(partDesc, prometheus.GaugeValue, 7)
}

func TestMetrics(t *testing.T) {
	m := New("1.2")
	p := &part{}
	if err := m.Register("shows nothing", p, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Register(p); err == nil {
		t.Error("the same twice was taken")
	}
	m.Requests("api")("GET /v1/chassis/{id}", 404, 3*time.Millisecond, 100)
	m.DHCP("DISCOVER", "OFFER")
	m.TFTP(7, nil)
	m.TFTP(3, errors.New("gone"))
	scrape := func(want ...string) {
		t.Helper()
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for _, line := range want {
			if w.Code != 200 || !strings.Contains(w.Body.String(), line) {
				t.Errorf("%d, lacks %q in\n%.500s", w.Code, line, w.Body)
			}
		}
	}
	request := `teeth_http_requests_total{interface="api",route="GET /v1/chassis/{id}",status="404"} 1`
	scrape(request, `teeth_http_response_bytes_total{interface="api",route="GET /v1/chassis/{id}"} 100`,
		`teeth_dhcp_messages_total{answer="OFFER",message="DISCOVER"} 1`, `teeth_tftp_transfers_total{result="failed"} 1`,
		"teeth_tftp_sent_bytes_total 7", `version="1.2"`, "go_goroutines ", "process_open_fds ", "teeth_part 7",
		`teeth_http_request_seconds_bucket{interface="api",route="GET /v1/chassis/{id}",le="0.005"} 1`)
	p.fail = true
	scrape(request) // the rest is shown all the same
}
