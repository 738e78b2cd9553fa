package imagecache

import (
	"errors"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	good := imageOf(1, Raw, []byte("x"), "https://example.com/a")
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Image){
		"no id":                 func(i *Image) { i.ID = "" },
		"path as id":            func(i *Image) { i.ID = "../../../../../../../../etc/passwd-xxx" },
		"no digest":             func(i *Image) { i.Hashes = nil },
		"md5 only":              func(i *Image) { i.Hashes = map[string]string{"md5": strings.Repeat("0", 32)} },
		"short digest":          func(i *Image) { i.Hashes = map[string]string{"sha256": "00"} },
		"digest of other":       func(i *Image) { i.Hashes = map[string]string{"sha512": strings.Repeat("0", 64)} },
		"not hexadecimal":       func(i *Image) { i.Hashes = map[string]string{"sha256": strings.Repeat("g", 64)} },
		"one good, one bad":     func(i *Image) { i.Hashes["sha512"] = "" },
		"file URL":              func(i *Image) { i.URLs = []string{"file:///etc/shadow"} },
		"no host":               func(i *Image) { i.URLs = []string{"http:///x"} },
		"no format":             func(i *Image) { i.Format = "" },
		"unknown format":        func(i *Image) { i.Format = "vmdk" },
		"negative size":         func(i *Image) { i.Size = -1 },
		"name longer than that": func(i *Image) { i.Name = strings.Repeat("x", 257) },
	} {
		i := imageOf(1, Raw, []byte("x"), "https://example.com/a")
		change(&i)
		if err := i.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMagic(t *testing.T) {
	files := map[Format][]byte{
		Raw: random(1, 4096), RawGzip: gz(t, []byte("x")), RawZstd: zst(t, []byte("x")),
		RawXZ: run(t, []byte("x"), "xz", "-c"), QCOW2: qcow(t, make([]byte, mib)),
	}
	for declared := range files {
		for is, b := range files {
			err := Image{ID: id(1), Format: declared}.checkMagic(b[:min(len(b), headSize)])
			if (err == nil) != (declared == is) {
				t.Errorf("declared %s, is %s: %v", declared, is, err)
			}
		}
	}
	if err := (Image{Format: Raw}).checkMagic([]byte("KDMV....")); err == nil {
		t.Error("VMDK taken for raw")
	}
	if err := (Image{Format: RawZstd}).checkMagic([]byte("\x50\x2a\x4d\x18")); err != nil {
		t.Errorf("skippable frame: %v", err)
	}
}

func TestDigester(t *testing.T) {
	img := imageOf(1, Raw, []byte("abc"))
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	img.Hashes["sha512"] = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
	d := img.digester()
	d.Write([]byte("abc"))
	if err := d.check(); err != nil || d.String() != "sha256:"+want {
		t.Errorf("%v, %s", err, d)
	}
	img.Hashes["sha512"] = "0" + img.Hashes["sha512"][1:]
	d = img.digester()
	d.Write([]byte("abc"))
	if err := d.check(); !errors.Is(err, ErrDigest) {
		t.Errorf("one of two wrong: %v", err)
	}
}
