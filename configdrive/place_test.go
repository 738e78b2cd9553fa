package configdrive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/partition"
)

const mib = 1 << 20

// tool runs a program that `make setup` installs.
func tool(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// disk makes a plain file of size bytes holding an image of imageSize bytes that
// sfdisk partitions.
func disk(t *testing.T, imageSize, size int64, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, int(imageSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, script, "sfdisk", "-q", "--wipe=always", path)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func place1(t *testing.T, path string, c Content) Placement {
	t.Helper()
	d, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Place(context.Background(), path, d, d.Size(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, p.Length)
	copy(want, build(t, c))
	if !bytes.Equal(b[p.Start:p.Start+p.Length], want) {
		t.Fatal("the partition does not hold the drive followed by zeros")
	}
	return p
}

func TestPlaceGPT(t *testing.T) {
	path := disk(t, 16*mib, 24*mib, "label: gpt\nsize=2MiB, name=boot\nsize=4MiB, name=root\n")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := place1(t, path, sample())
	if p.Partition != 3 || p.Start%mib != 0 || p.Start < 22*mib {
		t.Errorf("placed at %+v", p)
	}
	// Larger content, then smaller: always one drive, and nothing of the old one.
	big := sample()
	big.UserData = bytes.Repeat([]byte("SECRET"), mib/2)
	if got := place1(t, path, big); got.Length < 3*mib || got.Start >= p.Start {
		t.Errorf("larger drive placed at %+v", got)
	}
	again := place1(t, path, sample())
	if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("SECRETSECRET")) {
		t.Error("the former drive's secret is still on the disk")
	} else if !bytes.Equal(b[mib:7*mib], before[mib:7*mib]) {
		t.Error("the other partitions changed")
	}
	if place1(t, path, sample()) != again {
		t.Error("placing the same drive again moved it")
	}
	out := tool(t, "", "sgdisk", "-v", "-p", path)
	if !strings.Contains(out, "No problems found") || strings.Count(out, Label) != 1 || !strings.Contains(out, "root") {
		t.Error(out)
	}
}

func TestPlaceReplacesStrangers(t *testing.T) {
	// One too small, one by label only: both go.
	path := disk(t, 16*mib, 16*mib, "label: gpt\nsize=1MiB, name=root\nsize=512, name=config-2\nsize=1MiB, name=seed\n")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := partition.ReadGPT(f, 16*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	seed, ok := g.Entry(2)
	if !ok {
		t.Fatal("no third partition")
	}
	if _, err := f.WriteAt(build(t, Content{UserData: []byte("stale user data")}), int64(seed.Extent.First)*512); err != nil {
		t.Fatal(err)
	}
	place1(t, path, sample())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("stale user data")) {
		t.Error("the former drive is still on the disk")
	}
	if out := tool(t, "", "sgdisk", "-v", "-p", path); strings.Count(out, Label) != 1 || strings.Contains(out, "seed") {
		t.Error(out)
	}
}

func TestPlaceMBR(t *testing.T) {
	path := disk(t, 8*mib, 16*mib, "label: dos\nstart=2048, size=4096, type=83, bootable\n")
	p := place1(t, path, sample())
	if p.Partition != 2 || p.Start != 15*mib {
		t.Errorf("placed at %+v", p)
	}
	if place1(t, path, sample()) != p {
		t.Error("placing again moved it")
	}
	if out := tool(t, "", "sfdisk", "-d", path); strings.Count(out, "start=") != 2 || !strings.Contains(out, "bootable") {
		t.Error(out)
	}
}

// Beyond 2 TiB an MBR has no words: the drive goes right below.
func TestPlaceLargeMBR(t *testing.T) {
	path := disk(t, 8*mib, 3<<40, "label: dos\nstart=2048, size=4096, type=83\n")
	d, err := Build(sample())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Place(context.Background(), path, d, d.Size(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Start != 2<<40-mib || p.Start+p.Length > 2<<40 {
		t.Errorf("placed at %+v", p)
	}
	if again, err := Place(context.Background(), path, d, d.Size(), Options{}); err != nil || again != p {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestPlaceRefuses(t *testing.T) {
	// More than sfdisk leaves behind a last partition that it aligns.
	large := sample()
	large.UserData = make([]byte, 2*mib)
	d, err := Build(large)
	if err != nil {
		t.Fatal(err)
	}
	blank := filepath.Join(t.TempDir(), "blank")
	if err := os.WriteFile(blank, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	small := disk(t, 8*mib, 8*mib, "label: gpt\n")
	full := disk(t, 8*mib, 8*mib, "label: gpt\nname=root\n")
	slots := disk(t, 8*mib, 16*mib, "label: dos\nsize=1MiB\nsize=1MiB\nsize=1MiB\nsize=1MiB\n")
	for _, c := range []struct {
		name, path string
		opt        Options
		want       error
	}{
		{"blank disk", blank, Options{}, partition.ErrNoTable},
		{"full disk", full, Options{}, partition.ErrNoRoom},
		{"four primaries", slots, Options{}, partition.ErrNoRoom},
		{"wrong size", small, Options{Expect: blockdev.Identity{Size: 1}}, blockdev.ErrMismatch},
		{"wrong serial", small, Options{Expect: blockdev.Identity{Serial: "X"}}, blockdev.ErrMismatch},
		{"protected", small, Options{Protected: []string{small}}, blockdev.ErrProtected},
	} {
		before, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Place(context.Background(), c.path, d, d.Size(), c.opt); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if after, _ := os.ReadFile(c.path); !bytes.Equal(before, after) {
			t.Errorf("%s: the disk changed", c.name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Place(ctx, small, d, d.Size(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// A drive shorter than announced must not be placed.
	if _, err := Place(context.Background(), small, d, d.Size()+1, Options{}); err == nil {
		t.Error("short drive: accepted")
	}
	if out := tool(t, "", "sgdisk", "-p", small); strings.Contains(out, Label) {
		t.Errorf("a failed Place left a partition: %s", out)
	}
}
