package apt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

// repository makes a Debian archive of two packages on file: URIs, and an /etc
// that names it. The .deb is not a real one: apt does not look into it.
func repository(t *testing.T, deb string) (etc string) {
	repo := t.TempDir()
	sum := sha256.Sum256([]byte(deb))
	packages := fmt.Sprintf(`Package: tool
Version: 1:2.0-1
Architecture: amd64
Depends: tool-data (>= 2), libc6 | libc
Filename: pool/tool.deb
Size: %d
SHA256: %x

Package: tool
Version: 1:1.0-1
Architecture: amd64
Filename: pool/old.deb
Size: 3
SHA256: %x
`, len(deb), sum, sha256.Sum256([]byte("old")))
	index := "main/binary-amd64/Packages"
	release := fmt.Sprintf("Origin: Test\nSuite: stable\nCodename: bookworm\nArchitectures: amd64\nComponents: main\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n %x %d %s\n",
		sha256.Sum256([]byte(packages)), len(packages), index)
	for name, content := range map[string]string{
		"dists/bookworm/Release":  release,
		"dists/bookworm/" + index: packages,
		"pool/tool.deb":           deb,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(repo, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return writeEtc(t, map[string]string{
		"os-release":       "VERSION_CODENAME=bookworm\n",
		"apt/sources.list": "deb [trusted=yes] copy:" + repo + " bookworm main\n",
	})
}

func needApt(t *testing.T) {
	need.Program(t, "apt-get", "apt")
}

func TestFetch(t *testing.T) {
	needApt(t)
	ctx := context.Background()
	c, err := New(t.TempDir(), repository(t, "the package"), "amd64", "non-free-firmware")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Update(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := c.Show(ctx, "tool")
	if err != nil {
		t.Fatal(err)
	}
	if p.Version != "1:2.0-1" || strings.Join(p.Depends, " ") != "tool-data libc6" {
		t.Errorf("Show = %+v, want the newest version with its dependencies", p)
	}
	dir := t.TempDir()
	file, err := c.Download(ctx, p, dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "the package" {
		t.Errorf("downloaded %q, %v", b, err)
	}
	for _, name := range []string{"nosuch", "--version"} {
		if p, err := c.Show(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Show(%s) = %+v, %v, want ErrNotFound", name, p, err)
		}
	}
	// A package whose digest is not what the caller verified before.
	p.SHA256 = strings.Repeat("0", 64)
	if _, err := c.Download(ctx, p, dir); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("Download of a changed package: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("Download left %v, %v, want the one package", left, err)
	}
}

func TestUpdateFails(t *testing.T) {
	needApt(t)
	etc := writeEtc(t, map[string]string{
		"os-release":       "VERSION_CODENAME=bookworm\n",
		"apt/sources.list": "deb [trusted=yes] copy:/nonexistent/teeth bookworm main\n",
	})
	c, err := New(t.TempDir(), etc, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Update(context.Background()); err == nil {
		t.Error("Update from an archive that is not there succeeded")
	}
}

func TestNewRefusesPath(t *testing.T) {
	if _, err := New(t.TempDir()+`/"; Dir "/`, "/etc", "amd64"); err == nil {
		t.Error("New took a directory that breaks out of apt.conf")
	}
}
