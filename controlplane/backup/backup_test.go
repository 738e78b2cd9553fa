package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// dataDir is a data directory with a running server's files.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"teeth.db": "not this one", "teeth.db-wal": "x", "lock": "", "client.json": "x", ".client.json.123": "x",
		"ca.pem": "key", "operator.token": "secret", "images/0a": strings.Repeat("image", 1000), "images/.part": "x",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func save(_ context.Context, path string) error {
	return os.WriteFile(path, []byte("the database"), 0o600)
}

func backup(t *testing.T, src Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(t.Context(), &b, src); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(b)
		if st, _ := d.Info(); st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", name, st.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestBackupAndRestore(t *testing.T) {
	src := Source{Dir: dataDir(t), Version: "1", Save: save, Images: true}
	b := backup(t, src)
	if m, err := Check(t.Context(), bytes.NewReader(b)); err != nil || m.Version != "1" || m.Database != "sqlite" || !m.Images || len(m.Files) != 4 {
		t.Fatalf("%+v, %v", m, err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := Restore(t.Context(), bytes.NewReader(b), dir); err != nil {
		t.Fatal(err)
	}
	got := tree(t, dir)
	want := map[string]string{"teeth.db": "the database", "ca.pem": "key", "operator.token": "secret", "images/0a": strings.Repeat("image", 1000)}
	if len(got) != len(want) {
		t.Errorf("restored: %q", got)
	}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	// Nothing is written over.
	if _, err := Restore(t.Context(), bytes.NewReader(b), dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over what was there: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(src.Dir, snapshot+"*")); len(left) > 0 {
		t.Errorf("left in the data directory: %q", left)
	}
	src.Images, src.Save, src.NoSave = false, nil, "pg_dump"
	if m, err := Check(t.Context(), bytes.NewReader(backup(t, src))); err != nil || m.Database != "pg_dump" || m.Images || len(m.Files) != 2 {
		t.Errorf("%+v, %v", m, err)
	}
	src.Save = func(context.Context, string) error { return errors.New("disk full") }
	if err := Write(t.Context(), io.Discard, src); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Error(err)
	}
}

// A backup that was cut off anywhere, or in which a bit is wrong, makes no data
// directory, not even a part of one.
func TestDamagedBackup(t *testing.T) {
	whole := backup(t, Source{Dir: dataDir(t), Save: save, Images: true})
	try := func(what string, b []byte) {
		t.Helper()
		dir := t.TempDir()
		if _, err := Restore(t.Context(), bytes.NewReader(b), dir); err == nil {
			t.Errorf("%s was restored", what)
		}
		if files := tree(t, dir); len(files) > 0 {
			t.Errorf("%s left %q", what, files)
		}
	}
	for n := 0; n < len(whole)-16; n += 37 {
		try("a part", whole[:n])
	}
	for n := 8; n < len(whole); n += 41 {
		b := bytes.Clone(whole)
		b[n] ^= 1
		dir := t.TempDir()
		if _, err := Restore(t.Context(), bytes.NewReader(b), dir); err == nil {
			// Only where nothing depends on the bit, as in padding.
			if got := tree(t, dir); got["teeth.db"] != "the database" || got["ca.pem"] != "key" {
				t.Errorf("with bit %d changed, another thing was restored: %q", n*8, got)
			}
		}
	}
}

func pack(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range headers {
		content := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Mode: 0o4777}
}

func TestHostileBackup(t *testing.T) {
	empty := file(manifestName, `{"format":1}`)
	for name, b := range map[string][]byte{
		"up":           pack(t, file("../x", "x"), empty),
		"absolute":     pack(t, file("/etc/x", "x"), empty),
		"deep":         pack(t, file("images/a/b", "x"), empty),
		"up in images": pack(t, file("images/..", "x"), empty),
		"hidden":       pack(t, file(".ssh", "x"), empty),
		"lock":         pack(t, file("lock", "x"), empty),
		"journal":      pack(t, file("teeth.db-wal", "x"), empty),
		"client":       pack(t, file("client.json", "x"), empty),
		"link":         pack(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "ca.pem", Linkname: "/etc/shadow"}, empty),
		"hard link":    pack(t, &tar.Header{Typeflag: tar.TypeLink, Name: "ca.pem", Linkname: "/etc/shadow"}, empty),
		"device":       pack(t, &tar.Header{Typeflag: tar.TypeBlock, Name: "ca.pem"}, empty),
		"folder":       pack(t, &tar.Header{Typeflag: tar.TypeDir, Name: "images/"}, empty),
		"twice":        pack(t, file("ca.pem", "x"), file("ca.pem", "y"), empty),
		"not named":    pack(t, file("ca.pem", "x"), empty),
		"large key":    pack(t, file("ca.pem", strings.Repeat("x", maxKey+1)), empty),
		"no manifest":  pack(t, file("ca.pem", "x")),
		"other format": pack(t, file(manifestName, `{"format":2}`)),
		"missing":      pack(t, file(manifestName, `{"format":1,"files":[{"name":"ca.pem"}]}`)),
		"after":        pack(t, file(manifestName, `{"format":1}`), file("ca.pem", "x")),
		"not zstd":     []byte("PK\x03\x04 something else entirely"),
	} {
		dir := t.TempDir()
		if _, err := Restore(t.Context(), bytes.NewReader(b), dir); err == nil {
			t.Errorf("%s: was restored", name)
		}
		if files := tree(t, dir); len(files) > 0 {
			t.Errorf("%s: left %q", name, files)
		}
	}
}

func FuzzRestore(f *testing.F) {
	f.Add(pack(f, file(manifestName, `{"format":1}`)))
	f.Add(pack(f, file("ca.pem", "x"), file(manifestName, `{"format":1,"files":[{"name":"ca.pem","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}]}`)))
	f.Add(pack(f, &tar.Header{Typeflag: tar.TypeSymlink, Name: "ca.pem", Linkname: "/etc"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		Check(t.Context(), bytes.NewReader(b))
	})
}
