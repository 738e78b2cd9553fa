package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"aead.dev/minisign"
)

func TestStage(t *testing.T) {
	kernel, initrd := []byte("a kernel"), bytes.Repeat([]byte("initramfs "), 100000)
	describe := func(change func(map[string]any)) []byte {
		part := func(name string, b []byte) map[string]any {
			sum := sha256.Sum256(b)
			return map[string]any{"name": name, "size": len(b), "sha256": hex.EncodeToString(sum[:])}
		}
		d := map[string]any{"format": 1, "arch": runtime.GOARCH, "kernel": part("vmlinuz", kernel), "image": part("teeth.cpio.zst", initrd)}
		if change != nil {
			change(d)
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	comment := Comment("2.0.0", Image, runtime.GOARCH)
	for _, tt := range []struct {
		name    string
		change  func(map[string]any)
		also    func(*publisher)
		cmdline string
		want    string // of the error
		booted  string
	}{
		{"good", nil, nil, "console=ttyS0 teeth.server=a:1", "", "console=ttyS0 teeth.server=a:1"},
		{"new token, and nothing else of the script", nil, nil, "teeth.token=old teeth.server=a:1 quiet", "", "teeth.token=new teeth.server=a:1 quiet"},
		{"no new token", nil, func(p *publisher) { delete(p.files, "ipxe?52:54:00:00:00:01") }, "teeth.token=old", "no token", ""},
		{"kernel changed", nil, func(p *publisher) { p.files["vmlinuz"] = []byte("A kernel") }, "", "sha256", ""},
		{"initramfs gone", nil, func(p *publisher) { delete(p.files, "teeth.cpio.zst") }, "", "teeth.cpio.zst", ""},
		{"signed as an agent", nil, func(p *publisher) {
			p.add("2.0.0", "teeth.json", describe(nil), Comment("2.0.0", Agent, runtime.GOARCH))
		}, "", "kind", ""},
		{"name that leads away", func(d map[string]any) { d["kernel"].(map[string]any)["name"] = "../x" }, nil, "", "plain file name", ""},
		{"other machine", func(d map[string]any) { d["arch"] = "pdp11" }, nil, "", "pdp11", ""},
		{"no digest", func(d map[string]any) { d["image"].(map[string]any)["sha256"] = "" }, nil, "", "sha256", ""},
		{"huge", func(d map[string]any) { d["image"].(map[string]any)["size"] = 1 << 40 }, nil, "", "size", ""},
		{"one name for both", func(d map[string]any) { d["image"] = d["kernel"] }, nil, "", "both", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := publish(t)
			p.files["vmlinuz"], p.files["teeth.cpio.zst"] = kernel, initrd
			p.files["ipxe?52:54:00:00:00:01"] = []byte("#!ipxe\nkernel x teeth.server=evil:1 teeth.token=new teeth.ca_sha256=00\n")
			p.add("2.0.0", "teeth.json", describe(tt.change), comment)
			if tt.also != nil {
				tt.also(p)
			}
			dir := filepath.Join(t.TempDir(), "stage")
			booted := ""
			s := &Stager{
				URL: p.URL + "/api/v1/minion", Key: p.key(t), Version: "1.0.0", Dir: dir, Cmdline: tt.cmdline, MAC: "52:54:00:00:00:01", Log: slog.New(slog.DiscardHandler),
				load: func(_ context.Context, k, i, cmdline string) error {
					kb, err := os.ReadFile(k)
					ib, err2 := os.ReadFile(i)
					if !bytes.Equal(kb, kernel) || !bytes.Equal(ib, initrd) {
						t.Errorf("%d and %d bytes: %v", len(kb), len(ib), errors.Join(err, err2))
					}
					booted = cmdline
					return nil
				},
			}
			_, err := s.Stage(t.Context(), false)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if booted != tt.booted {
				t.Errorf("booted with %q", booted)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("files are left in memory")
			}
		})
	}
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte(`{"latest_version":"1.2.3","download_url":"x","sha256":"00","signature":"untrusted comment: x\nRUQ=\n"}`))
	key, _, err := minisign.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	k := Key{key}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Release
		if json.Unmarshal(b, &r) != nil {
			return
		}
		if r.check() == nil && strings.ContainsAny(r.Version, "/\\ \x00") {
			t.Errorf("version %q", r.Version)
		}
		if k.Verify(r, Agent, bytes.NewReader(b)) == nil {
			t.Error("a signature by nobody")
		}
	})
}
