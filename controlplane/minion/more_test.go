package minion

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// count returns a counter's value.
func count(c prometheus.Counter) float64 {
	registry := prometheus.NewPedanticRegistry()
	if registry.Register(c) != nil {
		return -1
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		return -1
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func tlsClient(nc net.Conn, conf *tls.Config) net.Conn { return tls.Client(nc, conf) }

func dialTLS(t *testing.T, address string, conf *tls.Config) net.Conn {
	t.Helper()
	nc, err := tls.Dial("tcp", address, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

func newTestLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
