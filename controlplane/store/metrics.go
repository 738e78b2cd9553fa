package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters measure the writer.
type meters struct {
	commits *prometheus.CounterVec
	seconds prometheus.Histogram
	writes  prometheus.Histogram
	tasks   *prometheus.HistogramVec

	mu     sync.Mutex
	counts []count // of what the database holds
	at     time.Time
}

func newMeters() *meters {
	return &meters{
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "teeth_store_commits_total",
			Help: "Transactions of the writer, by outcome: ok, failed.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "teeth_store_commit_seconds",
			Help:    "Time from the beginning of a transaction of the writer to its end on disk, with repetitions.",
			Buckets: []float64{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10},
		}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "teeth_store_commit_writes",
			Help:    "Writes that shared a transaction.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256},
		}),
		tasks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "teeth_task_seconds",
			Help:    "Time from the start of a task to its end, by job and the state it ended in, of tasks whose end this server has stored.",
			Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600},
		}, []string{"job", "state"}),
	}
}

// observe takes note of a transaction.
func (m *meters) observe(begun time.Time, writes int, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.commits.WithLabelValues(outcome).Inc()
	m.seconds.Observe(time.Since(begun).Seconds())
	m.writes.Observe(float64(writes))
}

// ending is the end of a task that was started.
type ending struct {
	job, state string
	took       time.Duration
}

// tasksEnded takes note of the ends of tasks, once they are stored.
func (m *meters) tasksEnded(all []ending) {
	for _, e := range all {
		m.tasks.WithLabelValues(e.job, e.state).Observe(e.took.Seconds())
	}
}

// count is how many things of a kind the database holds, by the value of a label.
type count struct {
	desc  *prometheus.Desc
	label []string
	n     float64
}

var (
	queueDesc    = prometheus.NewDesc("teeth_store_queue", "Writes that wait for the writer.", nil, nil)
	revisionDesc = prometheus.NewDesc("teeth_store_revision", "Newest revision that is known to this server.", nil, nil)
	countedDesc  = prometheus.NewDesc("teeth_store_counted", "1 if what the database holds could be counted, which the other metrics of the whole estate come from.", nil, nil)
)

// counted are counts of the whole estate: every server that shares the database
// shows the same. Each query gives a number, after the value of the label if there
// is one.
var counted = []struct {
	desc    *prometheus.Desc
	labeled bool
	query   string
}{
	{prometheus.NewDesc("teeth_chassis", "Chassis of the estate, by whether they may work: approved, rejected, waiting.", []string{"approval"}, nil), true,
		`SELECT CASE WHEN rejected IS NOT NULL THEN 'rejected' WHEN approved IS NOT NULL THEN 'approved' ELSE 'waiting' END AS approval, COUNT(*)
			FROM chassis GROUP BY approval`},
	{prometheus.NewDesc("teeth_chassis_connected", "Chassis of the estate that have a session, on any server.", nil, nil), false,
		`SELECT COUNT(*) FROM chassis WHERE connected <> 0`},
	{prometheus.NewDesc("teeth_chassis_failed", "Chassis of the estate whose last work failed.", nil, nil), false,
		`SELECT COUNT(*) FROM chassis WHERE failed <> 0`},
	{prometheus.NewDesc("teeth_chassis_in_service", "Chassis of the estate whose installed system has called back.", nil, nil), false,
		`SELECT COUNT(*) FROM chassis WHERE in_service IS NOT NULL`},
	{prometheus.NewDesc("teeth_tasks", "Tasks of the estate, by state.", []string{"state"}, nil), true,
		`SELECT state, COUNT(*) FROM tasks GROUP BY state`},
	{prometheus.NewDesc("teeth_graphs", "Graphs of the estate, by state.", []string{"state"}, nil), true,
		`SELECT state, COUNT(*) FROM graphs GROUP BY state`},
	{prometheus.NewDesc("teeth_graphs_paused", "Graphs of the estate that are paused.", nil, nil), false,
		`SELECT COUNT(*) FROM graphs WHERE paused <> 0 AND finished IS NULL`},
	{prometheus.NewDesc("teeth_images", "OS images.", nil, nil), false, `SELECT COUNT(*) FROM images`},
	{prometheus.NewDesc("teeth_images_bytes", "Bytes of OS images.", nil, nil), false, `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM images`},
	{prometheus.NewDesc("teeth_notices_waiting", "Notices that are yet to be told on the bus.", nil, nil), false, `SELECT COUNT(*) FROM notices`},
	{prometheus.NewDesc("teeth_dhcp_leases", "Leases, by state.", []string{"state"}, nil), true,
		`SELECT state, COUNT(*) FROM leases GROUP BY state`},
	{prometheus.NewDesc("teeth_users", "Users.", nil, nil), false, `SELECT COUNT(*) FROM users`},
}

const (
	countEvery = 10 * time.Second
	countTime  = 5 * time.Second
)

// Describe makes a Store a prometheus.Collector.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueDesc, revisionDesc, countedDesc} {
		ch <- d
	}
	for _, c := range counted {
		ch <- c.desc
	}
	s.meters.commits.Describe(ch)
	s.meters.seconds.Describe(ch)
	s.meters.writes.Describe(ch)
	s.meters.tasks.Describe(ch)
}

// Collect makes a Store a prometheus.Collector.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	s.meters.commits.Collect(ch)
	s.meters.seconds.Collect(ch)
	s.meters.writes.Collect(ch)
	s.meters.tasks.Collect(ch)
	rev, _ := s.Revision()
	ch <- prometheus.MustNewConstMetric(queueDesc, prometheus.GaugeValue, float64(len(s.ops)))
	ch <- prometheus.MustNewConstMetric(revisionDesc, prometheus.GaugeValue, float64(rev))
	counts, err := s.count()
	could := 1.0
	if err != nil {
		could = 0
		if !errors.Is(err, ErrClosed) {
			s.log.Error("metrics lack what the database holds", "error", err)
		}
	}
	ch <- prometheus.MustNewConstMetric(countedDesc, prometheus.GaugeValue, could)
	for _, c := range counts {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, c.n, c.label...)
	}
}

// count counts what the database holds, at most every ten seconds.
func (s *Store) count() ([]count, error) {
	m := s.meters
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) < countEvery {
		return m.counts, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTime)
	defer cancel()
	var counts []count
	for _, c := range counted {
		rows, err := s.r.QueryContext(ctx, c.query)
		if err != nil {
			return nil, fmt.Errorf("count: %w", err)
		}
		for rows.Next() {
			one := count{desc: c.desc}
			var n int64
			if c.labeled {
				one.label = []string{""}
				err = rows.Scan(&one.label[0], &n)
			} else {
				err = rows.Scan(&n)
			}
			one.n = float64(n)
			counts = append(counts, one)
			if err != nil {
				break
			}
		}
		if err = errors.Join(err, rows.Err()); err != nil {
			rows.Close()
			return nil, fmt.Errorf("count: %w", err)
		}
		rows.Close()
	}
	m.counts, m.at = counts, time.Now()
	return counts, nil
}
