package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/imagecache"
)

const (
	program  = "teeth-agent"
	testTime = 90 * time.Second // for the new program to test itself
	getTime  = 30 * time.Minute
	keep     = 3 // versions, the one in use among them
)

// Upgrader upgrades the program of an installed host.
type Upgrader struct {
	URL     string       // the version URL
	Key     Key          // that releases must be signed by
	Version string       // of the program that runs
	Client  *http.Client // nil: http.DefaultClient
	Root    string       // the folder of bin and versions; see FindRoot
	Config  string       // path of the agent's configuration, for the self-test
	Log     *slog.Logger
}

// FindRoot returns the folder that an installed agent lies in, by the path of its
// program (os.Executable): that of the folders bin and versions.
func FindRoot(executable string) (string, error) {
	dir := filepath.Dir(executable)
	root := filepath.Dir(dir)
	base := filepath.Base(dir)
	if base != "bin" && base != "versions" || slices.Contains([]string{"/", "/usr", "/usr/local"}, root) {
		return "", fmt.Errorf("%s cannot be upgraded by itself: it is not in the folder bin or versions of one of its own, such as /opt/teeth; if a package has installed it, upgrade the package", executable)
	}
	return root, nil
}

// Link is what the agent is started by.
func (u *Upgrader) Link() string { return filepath.Join(u.Root, "bin", program) }

func (u *Upgrader) versions() string { return filepath.Join(u.Root, "versions") }

// Upgrade fetches, verifies and tests the newest version, and switches to it. An
// error that wraps ErrNotNewer says that there is nothing to do; force installs what
// is signed whatever its version. The caller then starts Link: the new version is on
// trial.
func (u *Upgrader) Upgrade(ctx context.Context, force bool) (Release, error) {
	client := u.Client
	if client == nil {
		client = http.DefaultClient
	}
	r, err := Ask(ctx, client, u.URL, Agent)
	if err != nil {
		return r, err
	}
	if err := r.Newer(u.Version); err != nil && !force {
		return r, err
	}
	u.Log.Info("upgrading", "from", u.Version, "to", r.Version, "url", r.URL)
	path, err := u.fetch(ctx, client, r)
	if err != nil {
		return r, err
	}
	if err := u.test(ctx, path); err != nil {
		return r, errors.Join(fmt.Errorf("version %s is not installed: %w", r.Version, err), os.Remove(path))
	}
	if err := u.switchTo(path, r.Version); err != nil {
		return r, fmt.Errorf("version %s is not installed: %w", r.Version, err)
	}
	u.Log.Info("upgraded, on trial until it has connected", "version", r.Version, "program", path, "trial", TrialTime)
	u.prune()
	return r, nil
}

// fetch returns the path of the verified program.
func (u *Upgrader) fetch(ctx context.Context, client *http.Client, r Release) (path string, err error) {
	if err := os.MkdirAll(u.versions(), 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, getTime)
	defer cancel()
	f, err := os.CreateTemp(u.versions(), ".fetching-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	object := imagecache.Object{Name: program + " " + r.Version, URLs: []string{r.URL}, Hashes: map[string]string{"sha256": r.SHA256}, Size: r.Size}
	if _, err := (imagecache.Fetcher{Client: client, MaxSize: maxProgram, Attempts: 4}).Get(ctx, object, f, nil); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := u.Key.Verify(r, Agent, f); err != nil {
		return "", err
	}
	path = filepath.Join(u.versions(), program+"-"+strings.TrimPrefix(r.Version, "v"))
	if running, err := os.Stat("/proc/self/exe"); err == nil {
		if old, err := os.Stat(path); err == nil && os.SameFile(running, old) {
			return "", fmt.Errorf("version %s is the one that runs", r.Version)
		}
	}
	// What is open for writing cannot be started.
	err = errors.Join(f.Chmod(0o755), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return path, errors.Join(err, syncDir(u.versions()))
}

// test has the new program connect with this host's configuration.
func (u *Upgrader) test(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-t", "--config", u.Config)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, 5*time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no result within %v", testTime)
		}
		text := strings.TrimSpace(said.String())
		return fmt.Errorf("its self-test failed: %w: %s", err, text[max(0, len(text)-500):])
	}
	return nil
}

// switchTo puts a version on trial, and makes the link lead to it.
func (u *Upgrader) switchTo(path, version string) error {
	if err := os.MkdirAll(filepath.Dir(u.Link()), 0o755); err != nil {
		return err
	}
	old, err := u.current()
	if err != nil {
		return err
	}
	// Before the switch: if this is the last thing that happens, the trial ends with
	// what runs now, and nothing changes.
	t := Trial{Version: version, Program: path, Before: old}
	if last, err := u.trial(); err == nil && last.Version != "" && sameFile(last.Program, old) {
		t.Before = last.Before // what runs now has not connected yet: it is nothing to go back to
	}
	if err := u.write(t); err != nil {
		return err
	}
	return u.link(path)
}

// current is the program that is to be gone back to. If it is no version yet, as it
// was installed by hand, it becomes one.
func (u *Upgrader) current() (string, error) {
	path, err := filepath.EvalSymlinks(u.Link())
	if errors.Is(err, fs.ErrNotExist) {
		path, err = os.Executable()
	}
	if err != nil {
		return "", fmt.Errorf("what is installed now: %w", err)
	}
	versions, err := filepath.EvalSymlinks(u.versions())
	if err != nil || filepath.Dir(path) == versions {
		return path, err
	}
	saved := filepath.Join(u.versions(), program+"-before")
	if err := copyFile(path, saved); err != nil {
		return "", fmt.Errorf("keep what is installed now: %w", err)
	}
	return saved, nil
}

// link makes the link lead to a version, in one step.
func (u *Upgrader) link(path string) error {
	next := u.Link() + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(u.Link()), path)
	if err != nil {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	if err := os.Rename(next, u.Link()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(u.Link()))
}

// prune removes all but the newest versions.
func (u *Upgrader) prune() {
	paths, err := filepath.Glob(filepath.Join(u.versions(), program+"-*"))
	if err != nil {
		return
	}
	used, _ := filepath.EvalSymlinks(u.Link()) // "" keeps nothing special
	trial, _ := u.trial()
	age := func(path string) time.Time {
		if st, err := os.Stat(path); err == nil {
			return st.ModTime()
		}
		return time.Time{}
	}
	slices.SortFunc(paths, func(a, b string) int { return age(b).Compare(age(a)) })
	for _, p := range paths[min(len(paths), keep):] {
		if real, err := filepath.EvalSymlinks(p); err == nil && real != used && p != trial.Before && p != trial.Program {
			if err := os.Remove(p); err != nil {
				u.Log.Warn("an old version is not removed", "program", p, "err", err)
			}
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".copy-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
