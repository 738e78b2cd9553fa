package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/teeth-metal/teeth/internal/ar"
)

var wide = Bounds{Bytes: 64 << 20, Entries: 1000}

// unpack unpacks to a new directory.
func unpack(t testing.TB, b []byte, max Bounds) (dir string, a *Reader, err error) {
	t.Helper()
	dir = t.TempDir()
	a, err = New(context.Background(), bytes.NewReader(b), int64(len(b)), max)
	if err != nil {
		return dir, a, err
	}
	defer a.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, err = a.Unpack(root)
	return dir, a, err
}

// list describes what is in a directory, one line for each file.
func list(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&out, "%s %s", info.Mode(), rel)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " -> %s", to)
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %.20q", b)
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func symlink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, ""}
}

func link(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}, ""}
}

func dir(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// arOf makes a Debian package of names and contents.
func arOf(members ...string) []byte {
	var b bytes.Buffer
	b.WriteString(ar.Magic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]), members[i+1])
		if len(members[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func debOf(t testing.TB, data []byte) []byte {
	control := tarOf(t, file("./control", "Package: x\nVersion: 1\nArchitecture: amd64\nInstalled-Size: 3\n"))
	return arOf("debian-binary", "2.0\n", "control.tar.gz", string(gz(t, control)), "_odd", "?", "data.tar", string(data))
}

func TestTar(t *testing.T) {
	setuid := file("./bin/su", "x")
	setuid.Mode = 0o6755
	b := tarOf(t,
		dir("./", 0o700), dir("./bin/", 0o1555), setuid, symlink("./bin/sh", "/bin/su"), link("./bin/su2", "./bin/su"),
		entry{tar.Header{Typeflag: tar.TypeChar, Name: "./dev/null", Devmajor: 1}, ""},
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "./pipe"}, ""},
		file("deep/er/file", "y"), file("deep/er/file", "later"), file("/abs", "z"),
	)
	want := "-rw-r--r-- abs \"z\"\ndrwxr-xr-x bin\nLrwxrwxrwx bin/sh -> /bin/su\n-rwxr-xr-x bin/su \"x\"\n-rwxr-xr-x bin/su2 \"x\"\n" +
		"drwxr-xr-x deep\ndrwxr-xr-x deep/er\n-rw-r--r-- deep/er/file \"later\"\n"
	for name, b := range map[string][]byte{"plain": b, "gzip": gz(t, b), "zstd": zst(t, b), "deb": debOf(t, b)} {
		dir, a, err := unpack(t, b, wide)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := list(t, dir); got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
		if a.Special != 2 {
			t.Errorf("%s: %d special files", name, a.Special)
		}
		if name == "deb" && (a.Format != Deb || a.Name != "x" || a.Version != "1" || a.GoArch() != "amd64" || a.Installed != 3<<10) {
			t.Errorf("%+v", a)
		}
	}
}

// What leads out of the directory, or exceeds the bounds, is refused, in any format.
func TestHostile(t *testing.T) {
	long := strings.Repeat("a/", 400)
	many := []entry{}
	for i := range 30 {
		many = append(many, file(fmt.Sprint("f", i), ""))
	}
	for _, c := range []struct {
		name    string
		entries []entry
		want    error
	}{
		{"parent", []entry{file("../x", "x")}, ErrFormat},
		{"parent inside", []entry{file("a/../x", "x")}, ErrFormat},
		{"hard link to outside", []entry{link("x", "../../etc/passwd")}, ErrFormat},
		{"hard link to nothing", []entry{link("x", "y")}, fs.ErrNotExist},
		{"hard link to a symbolic one", []entry{symlink("y", "/etc/passwd"), link("x", "y")}, ErrFormat},
		{"hard link to a directory", []entry{dir("y", 0o755), link("x", "y")}, ErrFormat},
		{"through a symbolic link", []entry{symlink("out", "/tmp"), file("out/x", "x")}, nil},
		{"through a relative one", []entry{symlink("out", "../.."), file("out/x", "x")}, nil},
		{"over a directory with something in it", []entry{file("d/x", "x"), file("d", "x")}, nil},
		{"too many files", many, ErrTooLarge},
		{"too many directories", []entry{file(long+"x", "x")}, ErrTooLarge},
		{"too large", []entry{file("x", strings.Repeat("x", 1<<20))}, ErrTooLarge},
		{"too many small ones", append(many[:20:20], file("a", strings.Repeat("x", 480<<10)), file("b", strings.Repeat("x", 17<<10)), file("c", "x")), ErrTooLarge},
		{"long part", []entry{file(strings.Repeat("x", 256), "")}, ErrFormat},
		{"empty target", []entry{symlink("x", "")}, ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := tarOf(t, c.entries...)
			for _, b := range [][]byte{b, gz(t, b), debOf(t, b)} {
				dir, _, err := unpack(t, b, Bounds{Bytes: 500 << 10, Entries: 25})
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), "x")); err == nil {
					t.Error("it is outside")
				}
			}
		})
	}
	if _, err := os.Lstat("/tmp/x"); err == nil {
		t.Error("/tmp/x is there")
	}
}

// A small file that unpacks to very much of nothing comes to an end.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(w)
	// A device with contents is skipped, however long they are.
	if err := tw.WriteHeader(&tar.Header{Typeflag: 'Z', Name: "x", Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 300 {
		if _, err := tw.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if _, _, err := unpack(t, b.Bytes(), Bounds{Bytes: 1 << 20, Entries: 10}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestBroken(t *testing.T) {
	good := tarOf(t, file("x", strings.Repeat("x", 3000)))
	deb := debOf(t, good)
	flipped := gz(t, good)
	flipped[len(flipped)-6] ^= 1 // in the checksum at the end
	huge := bytes.Replace(deb, []byte(fmt.Sprintf("%-10d`\n?", 1)), []byte("9999999999`\n?"), 1)
	for name, b := range map[string][]byte{
		"empty":             nil,
		"html":              []byte("<html>" + strings.Repeat("x", 1000)),
		"zeros":             make([]byte, 4096),
		"cut tar":           good[:2000],
		"cut gzip":          gz(t, good)[:40],
		"gzip checksum":     flipped,
		"cut deb":           deb[:len(deb)-2000],
		"deb, other ar":     arOf("x", "y"),
		"deb, no control":   arOf("debian-binary", "2.0\n", "data.tar", string(good)),
		"deb, version 3":    arOf("debian-binary", "3.0\n", "control.tar", "", "data.tar", ""),
		"deb, no data":      arOf("debian-binary", "2.0\n", "control.tar", string(good)),
		"deb, huge member":  huge,
		"deb, bad control":  arOf("debian-binary", "2.0\n", "control.tar", string(good), "data.tar", string(good)),
		"deb, only control": arOf("debian-binary", "2.0\n", "control.tar", string(tarOf(t, file("control", "Package: x\n"))), "data.tar", string(good)),
		"rpm lead":          []byte(rpmMagic + "\x03\x00"),
	} {
		if _, _, err := unpack(t, b, wide); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContext(t *testing.T) {
	b := tarOf(t, file("x", "x"))
	ctx, cancel := context.WithCancel(t.Context())
	a, err := New(ctx, bytes.NewReader(b), int64(len(b)), wide)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := a.Unpack(root); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
