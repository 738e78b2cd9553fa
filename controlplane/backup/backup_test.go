package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// dataDir is a data directory with a running server's files.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"teeth.db": "not this one", "teeth.db-wal": "x", "lock": "", "client.json": "x", ".client.json.123": "x",
		"records.db": strings.Repeat("log", 1<<20), "records.db-wal": "x", "logs.sqlite": strings.Repeat("log", 1<<20), "logs.sqlite-shm": "x",
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
	src := Source{Dir: dataDir(t), Version: "1", Save: save, Images: true, Records: "elsewhere", Others: []string{"logs.sqlite"}}
	b := backup(t, src)
	if m, err := Check(t.Context(), bytes.NewReader(b)); err != nil || m.Version != "1" || m.Database != "sqlite" || !m.Images || m.Records != "elsewhere" || len(m.Files) != 4 {
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
	whole := backup(t, Source{Dir: dataDir(t), Save: save, Images: true, Others: []string{"logs.sqlite"}})
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
		"unnamed": pack(t, file("ca.pem", "x"), file("users", "x"), file(manifestName, `{"format":1,"files":[`+
			`{"name":"ca.pem","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},`+
			`{"name":"ca.pem","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}]}`)),
		"images is a file": pack(t, file("images", "x"), file(manifestName, `{"format":1,"files":[`+
			`{"name":"images","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}]}`)),
		"not zstd": []byte("PK\x03\x04 something else entirely"),
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

// A file of holes is a few bytes that say how long it is.
func TestSparseBackup(t *testing.T) {
	var archive bytes.Buffer
	entry := func(kind byte, name, content string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000600\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x0000000000000\x00", len(content)))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		archive.Write(h)
		archive.WriteString(content + strings.Repeat("\x00", (512-len(content)%512)%512))
	}
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for n != len(fmt.Sprintf("%d %s=%s\n", n, key, value)) {
			n = len(fmt.Sprintf("%d %s=%s\n", n, key, value))
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	entry('x', "x", record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+record("GNU.sparse.name", Database)+
		record("GNU.sparse.realsize", fmt.Sprint(int64(1)<<40)))
	entry('0', Database, "0\n"+strings.Repeat("\x00", 510))
	entry('0', manifestName, `{"format":1}`)
	archive.Write(make([]byte, 1024))
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(archive.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Check(ctx, bytes.NewReader(packed.Bytes())); err == nil || ctx.Err() != nil {
		t.Errorf("a TiB of nothing: %v", err)
	}
}

// What does not fit is known before the disk is full.
func TestBackupLargerThanTheDisk(t *testing.T) {
	var archive bytes.Buffer
	z, err := zstd.NewWriter(&archive)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: Database, Size: 1 << 50, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 1<<20))
	z.Close()
	dir := t.TempDir()
	if _, err := Restore(t.Context(), bytes.NewReader(archive.Bytes()), dir); err == nil || !strings.Contains(err.Error(), "free") {
		t.Errorf("a PiB: %v", err)
	}
	if files := tree(t, dir); len(files) > 0 {
		t.Errorf("left %q", files)
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
