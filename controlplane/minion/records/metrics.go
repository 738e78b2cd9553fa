package records

import "github.com/prometheus/client_golang/prometheus"

type meters struct {
	lines, measurements, refused, dropped prometheus.Counter
	took                                  prometheus.Histogram
}

func newMeters() *meters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &meters{
		lines:        counter("teeth_records_lines_total", "Log lines given to the records database, also those that it had already."),
		measurements: counter("teeth_records_measurements_total", "Measurements given to the records database, also those that it had already."),
		refused:      counter("teeth_records_refused_total", "Records that the database refuses for what they are, and that were left out."),
		dropped:      counter("teeth_records_dropped_lines_total", "Log lines dropped because they are too old, or because logs take more disk than they may."),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "teeth_records_write_seconds", Help: "Time to keep what was given at once to the records database.",
			Buckets: []float64{0.002, 0.01, 0.05, 0.2, 1, 5, 20},
		}),
	}
}

func (m *meters) all() []prometheus.Collector {
	return []prometheus.Collector{m.lines, m.measurements, m.refused, m.dropped, m.took}
}

// Describe implements prometheus.Collector.
func (d *DB) Describe(c chan<- *prometheus.Desc) {
	for _, m := range d.meters.all() {
		m.Describe(c)
	}
}

// Collect implements prometheus.Collector.
func (d *DB) Collect(c chan<- prometheus.Metric) {
	for _, m := range d.meters.all() {
		m.Collect(c)
	}
}
