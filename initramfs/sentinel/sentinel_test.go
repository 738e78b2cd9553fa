package sentinel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		name, content string
		want          Counts
		ok, truncated bool
	}{
		{"whole", "teeth-image v1 812 14654780\n", Counts{812, 14654780}, true, false},
		{"cut before the newline", "teeth-image v1 812 1465", Counts{}, false, true},
		{"empty, as after a failed write", "", Counts{}, false, true},
		{"another format", "teeth-image v2 1 2\n", Counts{}, false, false},
		{"one number", "teeth-image v1 1\n", Counts{}, false, false},
		{"three numbers", "teeth-image v1 1 2 3\n", Counts{}, false, false},
		{"negative", "teeth-image v1 -1 2\n", Counts{}, false, false},
		{"too large", "teeth-image v1 1 99999999999999999999\n", Counts{}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.WriteFile(filepath.Join(root, Name), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := Check(root)
			if (err == nil) != tt.ok || errors.Is(err, ErrTruncated) != tt.truncated {
				t.Fatalf("Check: %v, want ok %v, truncated %v", err, tt.ok, tt.truncated)
			}
			if tt.ok && got != tt.want {
				t.Errorf("Check = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCheckMissing(t *testing.T) {
	if _, err := Check(t.TempDir()); !errors.Is(err, ErrTruncated) {
		t.Errorf("Check of an empty root: %v, want ErrTruncated", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Counts{812, 14654780}.String())
	f.Add("teeth-image v1 0812 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Errorf("Parse(%q) = %+v, but parsing its String gives %+v, %v", s, c, again, err)
		}
	})
}
