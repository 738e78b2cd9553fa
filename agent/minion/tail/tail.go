package tail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// DefaultPoll is how often files are looked at.
	DefaultPoll = 500 * time.Millisecond
	// DefaultMaxLine is how long a line may be, in bytes.
	DefaultMaxLine = 64 << 10

	maxFiles = 1024
	maxState = 1 << 20
)

// File is one to be followed.
type File struct {
	Service string `yaml:"service"` // what its lines are called
	Path    string `yaml:"file"`
}

// Config of a Tail.
type Config struct {
	Files []File
	State string // file that keeps how far each was read; "": nothing is kept

	// Line takes a line, without its end. It may wait. One that it returns an error for
	// is read again, as is what follows.
	Line func(ctx context.Context, service, line string) error
	// Room waits until lines can be taken; nil: they always can.
	Room func(ctx context.Context) error
	// Sync returns when the lines given to Line will survive the process; nil: they do
	// at once.
	Sync func(ctx context.Context) error

	Poll    time.Duration // 0: DefaultPoll
	MaxLine int           // 0: DefaultMaxLine
	Log     *slog.Logger
}

// Tail follows files.
type Tail struct {
	c Config

	mu    sync.Mutex
	at    map[string]position // by path
	dirty bool
}

// position is how far a file was read.
type position struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // of the first line that was not handed on
	Head   []byte `json:"head"`   // digest of the file's first bytes
	Bytes  int    `json:"bytes"`  // how many they are
	// Modified is when the file was seen to be written last, in Unix nanoseconds.
	Modified int64 `json:"modified"`
}

// New returns a Tail that Run starts. A state file that cannot be read is an error;
// one that makes no sense is set aside.
func New(c Config) (*Tail, error) {
	if c.Line == nil || c.Log == nil {
		return nil, errors.New("tail: Line and Log must be set")
	}
	if len(c.Files) > maxFiles {
		return nil, fmt.Errorf("tail: %d files; at most %d are followed", len(c.Files), maxFiles)
	}
	c.Files = slices.Clone(c.Files)
	seen := map[string]bool{}
	for i, f := range c.Files {
		switch {
		case f.Service == "":
			return nil, fmt.Errorf("tail: file %q has no service: name one", f.Path)
		case !filepath.IsAbs(f.Path):
			return nil, fmt.Errorf("tail: file %q of service %q: give an absolute path", f.Path, f.Service)
		}
		c.Files[i].Path = filepath.Clean(f.Path)
		if seen[c.Files[i].Path] {
			return nil, fmt.Errorf("tail: file %s is named twice", c.Files[i].Path)
		}
		seen[c.Files[i].Path] = true
	}
	if c.Poll <= 0 {
		c.Poll = DefaultPoll
	}
	if c.MaxLine <= 0 {
		c.MaxLine = DefaultMaxLine
	}
	t := &Tail{c: c, at: map[string]position{}}
	if c.State == "" {
		return t, nil
	}
	return t, t.load()
}

// load reads the state file.
func (t *Tail) load() error {
	f, err := os.Open(t.c.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tail: how far files were read: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return fmt.Errorf("tail: how far files were read: %w", err)
	}
	if err := json.Unmarshal(b, &t.at); err != nil || t.at == nil {
		t.at = map[string]position{}
		aside := t.c.State + ".bad"
		t.c.Log.Error("what says how far log files were read makes no sense: they are followed from their end", "file", t.c.State, "kept_as", aside, "err", err)
		return os.Rename(t.c.State, aside)
	}
	return nil
}

// Run follows the files until ctx ends, whose error it returns.
func (t *Tail) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, f := range t.c.Files {
		fw := &follower{t: t, File: f, log: t.c.Log.With("file", f.Path, "service", f.Service), first: true}
		t.mu.Lock()
		if p, ok := t.at[f.Path]; ok && p.Offset >= 0 && p.Bytes >= 0 && p.Bytes <= headSize {
			fw.saved = &p
		}
		t.mu.Unlock()
		wg.Go(func() { fw.run(ctx) })
	}
	tick := time.NewTicker(max(t.c.Poll, time.Second))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			t.save(ctx)
		}
	}
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	t.save(last)
	return ctx.Err()
}

// moved notes how far a file was read.
func (t *Tail) moved(path string, p position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at[path] = p
	t.dirty = true
}

// save writes the state file if there is something new, once the lines are safe.
func (t *Tail) save(ctx context.Context) {
	t.mu.Lock()
	at, dirty := maps.Clone(t.at), t.dirty
	t.dirty = false
	t.mu.Unlock()
	if t.c.State == "" || !dirty {
		return
	}
	err := error(nil)
	if t.c.Sync != nil {
		err = t.c.Sync(ctx)
	}
	if err == nil {
		err = write(t.c.State, at)
	}
	if err == nil {
		return
	}
	t.mu.Lock()
	t.dirty = true // next time
	t.mu.Unlock()
	if ctx.Err() == nil {
		t.c.Log.Warn("cannot keep how far log files were read: lines may be sent twice", "state", t.c.State, "err", err)
	}
}

// write replaces a file, or leaves the old one.
func write(name string, at map[string]position) error {
	b, err := json.MarshalIndent(at, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tail-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
