package store

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	s := newStore(t)
	connect(t, s, "52:54:00:00:00:01")
	if _, err := s.AddUser(t.Context(), "ann", Viewer); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(s); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "/" + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{"teeth_chassis_connected": 1, "teeth_chassis/approved": 1, "teeth_users": 1, "teeth_images_bytes": 0, "teeth_store_counted": 1} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: %v, want %v", name, v, want)
		}
	}
	if got["teeth_store_commits_total/ok"] < 2 || got["teeth_store_commit_seconds"] < 2 || got["teeth_store_commit_writes"] < 2 || got["teeth_store_revision"] < 1 {
		t.Errorf("%v", got)
	}
	// Without a database what the process knows is shown all the same.
	s.Close()
	s.meters.at = s.meters.at.Add(-2 * countEvery)
	families, err = reg.Gather()
	if err != nil || len(families) < 5 {
		t.Errorf("%d, %v", len(families), err)
	}
	for _, f := range families {
		if f.GetName() == "teeth_store_counted" && f.Metric[0].GetGauge().GetValue() != 0 {
			t.Error("a closed database was counted")
		}
	}
}
