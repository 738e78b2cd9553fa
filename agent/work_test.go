package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/partition"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const mib = 1 << 20

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestErase(t *testing.T) {
	secret := bytes.Repeat([]byte("secret "), mib)
	sda, sdb := file(t, "sda", 8*mib, secret), file(t, "sdb", 9*mib, secret)
	gone := blockdev.Info{Name: "sdz", Path: filepath.Join(t.TempDir(), "sdz"), Size: 7 * mib}

	b := newBench(t, sda, gone, sdb)
	s := b.run(teeth.MethodDiskErase, map[string]any{"disks": []teeth.Disk{{Size: 9 * mib}}})
	if s.State != teeth.Complete || !strings.Contains(string(s.Result), `"bytes_verified":9437184`) {
		t.Errorf("%+v", s)
	}
	if bytes.Contains(read(t, sdb.Path), []byte("secret")) || !bytes.Contains(read(t, sda.Path), []byte("secret")) {
		t.Error("erased something else than sdb")
	}
	// One bad disk neither spares the others nor goes unnoticed.
	s = b.run(teeth.MethodDiskErase, map[string]any{})
	if s.State != teeth.Failed || !strings.Contains(s.Msg, gone.Path) {
		t.Errorf("%+v", s)
	}
	if bytes.Contains(read(t, sda.Path), []byte("secret")) {
		t.Error("sda was spared")
	}
}

func TestEraseAllButOneThatCannotBeRead(t *testing.T) {
	sda := file(t, "sda", 4*mib, []byte("secret"))
	b := newBench(t)
	b.disks = func() ([]blockdev.Info, error) { return []blockdev.Info{sda}, errors.New("sdb: no size") }
	if s := b.run(teeth.MethodDiskErase, map[string]any{}); s.State != teeth.Failed || !strings.Contains(s.Msg, "sdb: no size") {
		t.Errorf("all: %+v", s)
	}
	if !bytes.Equal(read(t, sda.Path), make([]byte, 4*mib)) {
		t.Error("sda was spared")
	}
	if s := b.run(teeth.MethodDiskErase, map[string]any{"disks": []teeth.Disk{{Size: 4 * mib}}}); s.State != teeth.Complete {
		t.Errorf("by name: %+v", s)
	}
}

func TestEraseCancelled(t *testing.T) {
	sda := file(t, "sda", 4*mib, []byte("secret"))
	b := newBench(t, sda)
	b.disks = func() ([]blockdev.Info, error) {
		if err := b.tasks.Cancel("t"); err != nil {
			t.Error(err)
		}
		return []blockdev.Info{sda}, nil
	}
	if _, err := b.do(teeth.MethodDiskErase, `{"task_id":"t"}`); err != nil {
		t.Fatal(err)
	}
	if s := <-b.ended; s.State != teeth.Failed || !strings.Contains(s.Msg, "cancelled") {
		t.Errorf("%+v", s)
	}
	if !bytes.Contains(read(t, sda.Path), []byte("secret")) {
		t.Error("a task that was cancelled went on")
	}
}

func TestSum(t *testing.T) {
	var done, total int64
	s := newSum(3, func(d, t int64) { done, total = d, t })
	s.part(0)(0, 100)
	s.part(1)(10, 50)
	s.part(0)(40, 100)
	s.part(2)(1, 1)
	if done != 51 || total != 151 {
		t.Errorf("%d of %d", done, total)
	}
}

func TestContents(t *testing.T) {
	named := blockdev.Info{Path: "/dev/sda", Serial: "S1", Size: 1}
	other := blockdev.Info{Path: "/dev/sdb", Serial: "S1", Size: 1}
	unnamed := blockdev.Info{Path: "/dev/vda", Size: 1}
	var c contents
	for _, d := range []blockdev.Info{named, unnamed} {
		c.set(d, content{zero: true})
	}
	if !c.of(named).zero || c.of(other).zero || c.of(unnamed).zero {
		t.Error("of disks that share an identity, or have none, only what was seen may count")
	}
	if err := c.bootable(named, "a"); err == nil || !strings.Contains(err.Error(), "/dev/sda was erased") {
		t.Error(err)
	}
	c.set(named, content{image: "ab"})
	if err := c.bootable(named, "AB"); err != nil {
		t.Error(err)
	}
	if err := c.bootable(named, "cd"); err == nil || !strings.Contains(err.Error(), "holds image ab, not cd") {
		t.Error(err)
	}
	c.forget(named)
	if err := errors.Join(c.bootable(named, "cd"), c.bootable(unnamed, "x")); err != nil {
		t.Errorf("nothing is known: %v", err)
	}
}

// osImage is a small disk image with a partition table, and a server of it.
func osImage(t *testing.T) (image map[string]any, raw []byte, requests *atomic.Int64) {
	path := filepath.Join(t.TempDir(), "os.raw")
	const size = 8 * mib
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := blockdev.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	table, err := partition.NewGPT(size, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(d); err != nil {
		t.Fatal(err)
	}
	raw = read(t, path)
	copy(raw[4*mib:], "operating system")
	requests = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
	}))
	t.Cleanup(s.Close)
	sum := sha256.Sum256(raw)
	return map[string]any{
		"id": imageID, "urls": []string{s.URL}, "hashes": map[string]string{"sha256": hex.EncodeToString(sum[:])}, "size": size,
	}, raw, requests
}

// TestCachePrepareRun takes an image through the memory cache to a disk and
// boots it.
func TestCachePrepareRun(t *testing.T) {
	image, raw, requests := osImage(t)
	sda := file(t, "sda", 32*mib, bytes.Repeat([]byte("old data"), mib))
	root := map[string]any{"size": sda.Size}
	b := newBench(t, sda)

	s := b.run(teeth.MethodCacheImages, map[string]any{"image_ids": []string{imageID}, "images": []any{image}, "root_device": root})
	if s.State != teeth.Complete || !strings.Contains(string(s.Result), imageID) {
		t.Fatalf("%+v", s)
	}
	fetched := requests.Load()
	s = b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "root_device": root})
	if s.State != teeth.Complete || requests.Load() != fetched {
		t.Fatalf("%d requests more: %+v", requests.Load()-fetched, s)
	}
	if got := read(t, sda.Path); !bytes.Equal(got[:len(raw)], raw) {
		t.Error("the disk does not hold the image")
	}
	s = b.run(teeth.MethodRunImage, map[string]any{
		"image_id": imageID, "root_device": root,
		"configdrive": map[string]any{"meta_data": map[string]string{"hostname": "web1"}},
	})
	var l left
	if err := json.Unmarshal(s.Result, &l); s.State != teeth.Complete || err != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	if l.Boot != bootReboot || !strings.Contains(l.Reason, "not a block device") || l.ConfigDrive == nil {
		t.Errorf("%+v", l)
	}
	drive := read(t, sda.Path)[l.ConfigDrive.Start:][:l.ConfigDrive.Length]
	if !bytes.Contains(drive, []byte("config-2")) || !bytes.Contains(drive, []byte("web1")) {
		t.Error("no config drive")
	}
	if got := <-b.leaves; got != "task-3 by reboot" {
		t.Errorf("leaves for %s", got)
	}
	if _, err := os.Stat(b.cacheDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("images are kept in memory although a kernel needs the room: %v", err)
	}
	if _, err := b.do(teeth.MethodRunImage, `{"task_id":"again","image_id":"x"}`); err == nil || !strings.Contains(err.Error(), "leaving") {
		t.Errorf("a second run_image: %v", err)
	}
}

func TestPrepareFromNetwork(t *testing.T) {
	image, raw, _ := osImage(t)
	sda := file(t, "sda", 16*mib, nil)
	root := map[string]any{"size": sda.Size}
	b := newBench(t, sda)
	if s := b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "root_device": root}); s.State != teeth.Failed || !strings.Contains(s.Msg, "does not say where to fetch") {
		t.Errorf("neither cached nor described: %+v", s)
	}
	bad := maps.Clone(image)
	bad["hashes"] = map[string]string{"sha256": digest}
	if s := b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "image": bad, "root_device": root}); s.State != teeth.Failed {
		t.Errorf("wrong digest: %+v", s)
	}
	if got := read(t, sda.Path)[:mib]; !bytes.Equal(got, make([]byte, mib)) {
		t.Error("a disk with a wrong image has a boot sector")
	}
	// Another file is cached under the id that this command means.
	if s := b.run(teeth.MethodCacheImages, map[string]any{"image_ids": []string{imageID}, "images": []any{image}}); s.State != teeth.Complete {
		t.Fatalf("%+v", s)
	}
	newRaw := bytes.Clone(raw)
	copy(newRaw[5*mib:], "newer")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(newRaw))
	}))
	defer srv.Close()
	sum := sha256.Sum256(newRaw)
	newer := map[string]any{"id": imageID, "urls": []string{srv.URL}, "hashes": map[string]string{"sha256": hex.EncodeToString(sum[:])}}
	if s := b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "image": newer, "root_device": root}); s.State != teeth.Complete {
		t.Fatalf("%+v", s)
	}
	if got := read(t, sda.Path); !bytes.Equal(got[:len(newRaw)], newRaw) {
		t.Error("the disk holds the older image")
	}
}

// TestDiskCache: only cache_images makes a blank disk a cache.
func TestDiskCache(t *testing.T) {
	image, raw, requests := osImage(t)
	sda, sdb := file(t, "sda", 16*mib, nil), file(t, "sdb", 64*mib, nil)
	root := map[string]any{"size": sda.Size}
	b := newBench(t, sda, sdb)
	if s := b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "image": image, "root_device": root}); s.State != teeth.Complete {
		t.Fatalf("%+v", s)
	}
	if !bytes.Equal(read(t, sdb.Path), make([]byte, sdb.Size)) {
		t.Error("preparing an image has written to another disk")
	}
	if s := b.run(teeth.MethodCacheImages, map[string]any{"image_ids": []string{imageID}, "images": []any{image}, "root_device": root}); s.State != teeth.Complete {
		t.Fatalf("%+v", s)
	}
	if !bytes.Contains(read(t, sdb.Path), []byte("operating system")) {
		t.Error("the blank disk is no cache")
	}
	fetched := requests.Load()
	if s := b.run(teeth.MethodPrepareImage, map[string]any{"image_id": imageID, "image": image, "root_device": root}); s.State != teeth.Complete || requests.Load() != fetched {
		t.Errorf("%d requests more: %+v", requests.Load()-fetched, s)
	}
	if got := read(t, sda.Path); !bytes.Equal(got[:len(raw)], raw) {
		t.Error("the disk does not hold the image")
	}
}

func TestCacheNeedsTheRightRootDevice(t *testing.T) {
	image, _, _ := osImage(t)
	blank := file(t, "sda", 64*mib, nil)
	b := newBench(t, blank)
	s := b.run(teeth.MethodCacheImages, map[string]any{
		"image_ids": []string{imageID}, "images": []any{image}, "root_device": map[string]any{"serial": "elsewhere"},
	})
	if s.State != teeth.Failed || !strings.Contains(s.Msg, "root device hints") {
		t.Errorf("%+v", s)
	}
	if !bytes.Equal(read(t, blank.Path), make([]byte, blank.Size)) {
		t.Error("the disk was used")
	}
}

func TestRunImageForKexecOnly(t *testing.T) {
	sda := file(t, "sda", 16*mib, nil)
	b := newBench(t, sda)
	s := b.run(teeth.MethodRunImage, map[string]any{"image_id": imageID, "boot": "kexec", "root_device": map[string]any{"size": sda.Size}})
	if s.State != teeth.Failed {
		t.Errorf("%+v", s)
	}
	if s := b.run(teeth.MethodQC, map[string]any{}); s.State != teeth.Complete {
		t.Errorf("after a failed run_image the agent is of no use: %+v", s)
	}
}

func TestChecks(t *testing.T) {
	b := newBench(t)
	inv := &hwinfo.Inventory{Firmware: []hwinfo.Firmware{{Component: "bios", Model: "Box", Version: "1.2"}}}
	b.inventory = func(context.Context) (*hwinfo.Inventory, error) { return inv, nil }
	item := func(minimum string) map[string]any {
		return map[string]any{"firmware": []any{map[string]string{"component": "bios", "minimum": minimum}}}
	}
	if s := b.run(teeth.MethodFirmwareSecure, item("1.1")); s.State != teeth.Complete {
		t.Errorf("%+v", s)
	}
	if s := b.run(teeth.MethodFirmwareSecure, item("2.0")); s.State != teeth.Failed || !strings.Contains(s.Msg, "2.0") {
		t.Errorf("%+v", s)
	}
	if s := b.run(teeth.MethodQC, map[string]any{"spec": map[string]any{"cpu": map[string]any{"min_cores": 64}}}); s.State != teeth.Failed || !strings.Contains(s.Msg, "differs from its spec in") {
		t.Errorf("%+v", s)
	}
}
