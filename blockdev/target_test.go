package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenTarget(t *testing.T) {
	dir := t.TempDir()
	disk, link, hard := filepath.Join(dir, "disk"), filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	readOnly := filepath.Join(dir, "ro")
	if err := errors.Join(
		os.WriteFile(disk, make([]byte, 8192), 0o600), os.Symlink(disk, link), os.Link(disk, hard),
		os.WriteFile(readOnly, make([]byte, 8192), 0o400),
	); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		expect     Identity
		protected  []string
		want       error
	}{
		{"any", disk, Identity{}, nil, nil},
		{"right size", disk, Identity{Size: 8192}, []string{readOnly, filepath.Join(dir, "gone")}, nil},
		{"wrong size", disk, Identity{Size: 8191}, nil, ErrMismatch},
		{"wrong serial", disk, Identity{Serial: "S"}, nil, ErrMismatch},
		{"protected", disk, Identity{}, []string{disk}, ErrProtected},
		{"protected by a symlink", disk, Identity{}, []string{link}, ErrProtected},
		{"protected by a hard link", link, Identity{}, []string{hard}, ErrProtected},
		{"read-only", readOnly, Identity{}, nil, ErrProtected},
		{"missing", filepath.Join(dir, "gone"), Identity{}, nil, os.ErrNotExist},
	} {
		d, err := OpenTarget(c.path, c.expect, c.protected)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if err == nil {
			d.Close()
		}
	}
}

func TestOpenTargetSays(t *testing.T) {
	path := file(t, 8192)
	for _, tt := range []struct {
		name, path string
		protected  []string
		says       string
	}{
		{"protection in doubt", path, []string{path + "/x"}, "not a directory"},
		{"empty", file(t, 0), nil, "no medium"},
		{"a directory", filepath.Dir(path), nil, "neither a block device nor a plain file"},
		{"a character device", "/dev/null", nil, "neither a block device nor a plain file"},
		{"which protection", path, []string{"/none", path}, "(" + path + ")"},
	} {
		d, err := OpenTarget(tt.path, Identity{}, tt.protected)
		if err == nil {
			d.Close()
			t.Errorf("%s: opened", tt.name)
		} else if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.path) {
			t.Errorf("%s: %v, want %q and the path", tt.name, err, tt.says)
		}
	}
}

// Every disk of this machine is on itself, and no plain file is.
func TestOn(t *testing.T) {
	disks, err := Sysfs{}.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if _, err := os.Stat(d.Path); err != nil { // a container may lack the node
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
