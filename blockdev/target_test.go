package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenTarget(t *testing.T) {
	path := file(t, 8192)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	readOnly := file(t, 8192)
	if err := os.Chmod(readOnly, 0o444); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		path      string
		expect    Identity
		protected []string
		is        error  // nil: must succeed
		says      string // part of the error
	}{
		{"right", path, Identity{Size: 8192}, []string{file(t, 8192), filepath.Join(t.TempDir(), "none")}, nil, ""},
		{"wrong size", path, Identity{Size: 4096}, nil, ErrMismatch, "size"},
		{"protected", path, Identity{}, []string{"/none", path}, ErrProtected, path},
		{"protected by a link", path, Identity{}, []string{link}, ErrProtected, link},
		{"a link to what is protected", link, Identity{}, []string{path}, ErrProtected, link},
		{"read-only", readOnly, Identity{}, nil, ErrProtected, "read-only"},
		{"protection in doubt", path, Identity{}, []string{path + "/x"}, errors.ErrUnsupported, "not a directory"},
		{"empty", file(t, 0), Identity{}, nil, errors.ErrUnsupported, "no medium"},
		{"missing", path + "x", Identity{}, nil, os.ErrNotExist, path + "x"},
		{"a directory", filepath.Dir(path), Identity{}, nil, errors.ErrUnsupported, "neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := OpenTarget(tt.path, tt.expect, tt.protected)
			if tt.is == nil {
				if err != nil {
					t.Fatal(err)
				}
				d.Close()
				return
			}
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			// ErrUnsupported stands for an error that has no sentinel.
			if !strings.Contains(err.Error(), tt.says) || (!errors.Is(tt.is, errors.ErrUnsupported) && !errors.Is(err, tt.is)) {
				t.Errorf("got %v, want %v that says %q", err, tt.is, tt.says)
			}
		})
	}
}

// Every disk of this machine is on itself, and no partition passes for one.
func TestOn(t *testing.T) {
	disks, err := Sysfs{}.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if _, err := os.Stat(d.Path); err != nil {
			continue
		}
		if same, err := d.on(d.Path); err != nil || !same {
			t.Errorf("%s is not on itself: %v", d.Path, err)
		}
		if same, err := d.on(os.Args[0]); err != nil || same {
			t.Errorf("%s is a plain file: %v", d.Path, err)
		}
	}
}
