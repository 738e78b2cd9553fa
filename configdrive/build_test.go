package configdrive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	diskfs "github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/filesystem"
)

func sample() Content {
	return Content{
		MetaData:    json.RawMessage(`{"uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "hostname": "tooth", "meta": {"n": 12345678901234567890}}`),
		NetworkData: json.RawMessage(`{"links": [], "networks": [], "services": []}`),
		VendorData:  json.RawMessage(`{"a": 1}`),
		UserData:    []byte("#cloud-config\nhostname: tooth\n"),
		Files:       map[string][]byte{"/etc/motd": []byte("welcome\n"), "/etc/empty": nil, "/etc/big": bytes.Repeat([]byte("0123456789"), 1000)},
	}
}

func build(t testing.TB, c Content) []byte {
	t.Helper()
	d, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := d.WriteTo(&b); err != nil || n != d.Size() || int64(b.Len()) != n {
		t.Fatalf("wrote %d of %d: %v", n, d.Size(), err)
	}
	return b.Bytes()
}

func open(t *testing.T, iso []byte) filesystem.FileSystem {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive.iso")
	if err := os.WriteFile(path, iso, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	f, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, f filesystem.FileSystem, name string) []byte {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDONLY)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer h.Close()
	b, err := io.ReadAll(h)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

func TestBuild(t *testing.T) {
	c := sample()
	iso := build(t, c)
	f := open(t, iso)
	if l := f.Label(); strings.TrimSpace(l) != Label {
		t.Errorf("label is %q", l)
	}
	for _, v := range []string{"latest", version} {
		dir := "/openstack/" + v + "/"
		for name, want := range map[string][]byte{"user_data": c.UserData, "network_data.json": c.NetworkData, "vendor_data.json": c.VendorData} {
			if got := read(t, f, dir+name); !bytes.Equal(got, want) {
				t.Errorf("%s%s: %q", dir, name, got)
			}
		}
		var meta struct {
			UUID, Hostname string
			Meta           map[string]json.Number
			Files          []contentFile
		}
		if err := json.Unmarshal(read(t, f, dir+"meta_data.json"), &meta); err != nil {
			t.Fatal(err)
		}
		if meta.UUID != "83679162-1378-4288-a2d4-70e13ec132aa" || meta.Hostname != "tooth" || meta.Meta["n"] != "12345678901234567890" {
			t.Errorf("meta_data.json: %+v", meta)
		}
		if len(meta.Files) != len(c.Files) {
			t.Fatalf("files: %+v", meta.Files)
		}
		for _, cf := range meta.Files {
			if got := read(t, f, "/openstack"+cf.ContentPath); !bytes.Equal(got, c.Files[cf.Path]) {
				t.Errorf("%s: %d bytes, want %d", cf.Path, len(got), len(c.Files[cf.Path]))
			}
		}
	}
	if !bytes.Equal(iso, build(t, sample())) {
		t.Error("the same content gave another drive")
	}
}

// The bytes that blkid, udev and the kernel look at.
func TestDescriptors(t *testing.T) {
	iso := build(t, sample())
	at := func(sector int) []byte { return iso[sector*sectorSize : (sector+1)*sectorSize] }
	if b := at(16); string(b[:7]) != "\x01CD001\x01" || string(b[40:72]) != Label+strings.Repeat(" ", 24) {
		t.Errorf("primary descriptor: %q", b[:72])
	}
	if b := at(17); string(b[:6]) != "\x02CD001" || string(b[88:91]) != "%/E" || string(b[40:56]) != "\x00c\x00o\x00n\x00f\x00i\x00g\x00-\x002" {
		t.Errorf("Joliet descriptor: %q", b[:96])
	}
	if b := at(18); string(b[:7]) != "\xffCD001\x01" {
		t.Errorf("terminator: %q", b[:8])
	}
	root := int(at(16)[158]) | int(at(16)[159])<<8
	if b := at(root); !bytes.Contains(b[:b[0]], []byte("SP\x07\x01\xbe\xef")) || !bytes.Contains(b[:b[0]], []byte("RRIP_1991A")) {
		t.Errorf("root directory: %q", b[:b[0]])
	}
	jroot := int(at(17)[158]) | int(at(17)[159])<<8
	if b := at(jroot); !bytes.Contains(b, []byte("\x00o\x00p\x00e\x00n\x00s\x00t\x00a\x00c\x00k")) {
		t.Error("no Joliet name in its root directory")
	}
	if !bytes.Equal(iso[:16*sectorSize], make([]byte, 16*sectorSize)) {
		t.Error("the system area is not empty")
	}
}

func TestBuildMinimal(t *testing.T) {
	f := open(t, build(t, Content{}))
	var meta map[string]string
	if err := json.Unmarshal(read(t, f, "openstack/latest/meta_data.json"), &meta); err != nil {
		t.Fatal(err)
	}
	if len(meta["uuid"]) != 36 || len(meta) != 1 {
		t.Errorf("meta_data.json: %v", meta)
	}
	if _, err := f.OpenFile("openstack/latest/user_data", os.O_RDONLY); err == nil {
		t.Error("there is a user_data")
	} else if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "not exist") {
		t.Logf("go-diskfs says: %v", err)
	}
}

func TestBuildManyFiles(t *testing.T) {
	c := Content{Files: map[string][]byte{}}
	for i := range 300 { // more than a sector of directory
		c.Files[fmt.Sprintf("/srv/%03d", i)] = []byte(fmt.Sprint("file ", i))
	}
	f := open(t, build(t, c))
	for i := range 300 {
		if got := string(read(t, f, fmt.Sprintf("openstack/content/%04d", i))); got != fmt.Sprint("file ", i) {
			t.Fatalf("%d: %q", i, got)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]Content{
		"meta_data not an object": {MetaData: json.RawMessage(`[1]`)},
		"meta_data not JSON":      {MetaData: json.RawMessage(`{`)},
		"uuid not a string":       {MetaData: json.RawMessage(`{"uuid": 1}`)},
		"uuid empty":              {MetaData: json.RawMessage(`{"uuid": ""}`)},
		"own files":               {MetaData: json.RawMessage(`{"files": []}`)},
		"network_data not JSON":   {NetworkData: json.RawMessage(`nope`)},
		"vendor_data not JSON":    {VendorData: json.RawMessage(`{} {}`)},
		"relative path":           {Files: map[string][]byte{"etc/motd": nil}},
		"path with dots":          {Files: map[string][]byte{"/etc/../motd": nil}},
		"path with a newline":     {Files: map[string][]byte{"/etc/a\nb": nil}},
		"root":                    {Files: map[string][]byte{"/": nil}},
		"too large":               {UserData: make([]byte, MaxSize)},
		"much too large":          {UserData: make([]byte, MaxSize+1)},
	} {
		if _, err := Build(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDriveReader(t *testing.T) {
	d, err := Build(sample())
	if err != nil {
		t.Fatal(err)
	}
	want := build(t, sample())
	if err := iotest.TestReader(io.NewSectionReader(d, 0, d.Size()), want); err != nil {
		t.Error(err)
	}
	if _, err := d.ReadAt(make([]byte, 1), d.Size()); err != io.EOF {
		t.Errorf("past the end: %v", err)
	}
}

// Whatever the metadata is, a drive that is built has the files on it.
func FuzzBuild(f *testing.F) {
	f.Add([]byte(`{"hostname": "x"}`), "/etc/motd", []byte("hello"))
	f.Fuzz(func(t *testing.T, meta []byte, path string, data []byte) {
		d, err := Build(Content{MetaData: meta, Files: map[string][]byte{path: data}})
		if err != nil {
			return
		}
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, data) {
			t.Fatal("content is not on the drive")
		}
	})
}
