package blockdev

import (
	"errors"
	"os"
	"path/filepath"
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
