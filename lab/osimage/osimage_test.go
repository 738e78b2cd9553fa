package osimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestPackAndCache(t *testing.T) {
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "x.raw.zst")
	data := append(bytes.Repeat([]byte("teeth "), 100_000), make([]byte, 1<<20)...)
	if err := os.WriteFile(raw, data, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := pack(context.Background(), raw, out)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("unpacked %d bytes, %v", len(got), err)
	}
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	if img.RawSHA256 != sum(data) || img.SHA256 != sum(packed) || img.RawSize != int64(len(data)) || img.Size != int64(len(packed)) {
		t.Errorf("described as %+v", img)
	}

	describe := func() {
		text, err := json.Marshal(img)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img.Recipe = recipe()
	describe()
	again, err := Build(context.Background(), out, slog.New(slog.DiscardHandler))
	if err != nil || again.SHA256 != img.SHA256 || again.Path != out {
		t.Errorf("from the cache: %+v, %v", again, err)
	}
	for name, spoil := range map[string]func(){
		"another recipe": func() { img.Recipe = "old"; describe() },
		"cut off":        func() { img.Recipe = recipe(); describe(); os.Truncate(out, 10) },
		"gone":           func() { os.Remove(out) },
		"no description": func() { os.WriteFile(filepath.Join(dir, "x.json"), []byte("{"), 0o600) },
	} {
		spoil()
		if got, err := cached(out, filepath.Join(dir, "x.json")); got != nil || err != nil {
			t.Errorf("%s: took %+v, %v from the cache", name, got, err)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := pack(ctx, raw, out); err == nil {
		t.Error("packed after it was cancelled")
	}
}

func TestBadName(t *testing.T) {
	if _, err := Build(context.Background(), "debian.img", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), ".raw.zst") {
		t.Errorf("error is %v", err)
	}
}

func TestRunSaysWhy(t *testing.T) {
	b := builder{ctx: context.Background()}
	err := b.run("", "from stdin", "/bin/sh", "-c", "cat >&2; exit 7")
	if err == nil || !strings.Contains(err.Error(), "from stdin") || !strings.Contains(err.Error(), "7") {
		t.Errorf("error is %v", err)
	}
}

func TestBootSector(t *testing.T) {
	img := bytes.Repeat([]byte{0xee}, 512)
	code, err := bootSector(img)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte(nil), img[:440]...)
	copy(want[0x5c:], []byte{0, 8, 0, 0, 0, 0, 0, 0, 0xff})
	copy(want[0x66:], []byte{0x90, 0x90})
	if !bytes.Equal(code, want) {
		t.Errorf("boot sector is\n%x, expected\n%x", code, want)
	}
	if _, err := bootSector(img[:511]); err == nil {
		t.Error("took a boot.img of 511 bytes")
	}
}

func TestLinkCore(t *testing.T) {
	core, err := linkCore(make([]byte, 512*3+1))
	if err != nil {
		t.Fatal(err)
	}
	// Starts at 2049, three sectors (the last of one byte), at segment 0x820.
	if want := []byte{1, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0x20, 8}; !bytes.Equal(core[500:512], want) {
		t.Errorf("block list is %x, expected %x", core[500:512], want)
	}
	for _, n := range []int{0, 512, grubSize*512 + 1} {
		if _, err := linkCore(make([]byte, n)); err == nil {
			t.Errorf("took a core.img of %d bytes", n)
		}
	}
}
