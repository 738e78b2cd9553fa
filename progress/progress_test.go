package progress

import "testing"

func TestPart(t *testing.T) {
	tests := []struct {
		name        string
		done, total int64
		want        int64
	}{
		{"start", 0, 10, 100},
		{"half", 5, 10, 150},
		{"end", 10, 10, 200},
		{"beyond the end", 12, 10, 200},
		{"before the start", -1, 10, 100},
		{"huge values do not overflow", 1 << 62, 1 << 62, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got, total int64 = -1, -1
			Func(func(d, tot int64) { got, total = d, tot }).Part(100, 200, 1000)(tt.done, tt.total)
			if got != tt.want || total != 1000 {
				t.Errorf("got %d of %d, want %d of 1000", got, total, tt.want)
			}
		})
	}
}

func TestPartUnknownTotal(t *testing.T) {
	called := false
	Func(func(int64, int64) { called = true }).Part(0, 10, 10)(3, 0)
	if called {
		t.Error("a step of unknown size moved the whole")
	}
}

func TestNil(t *testing.T) {
	var f Func
	f.Report(1, 2)
	f.Part(0, 1, 2)(1, 1)
}
