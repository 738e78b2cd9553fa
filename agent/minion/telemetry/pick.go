package telemetry

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

const (
	maxPicked  = 4 << 20 // bytes of a file
	maxPickNow = 1000    // files of one look
	// ripe is how long a file must not have been written to, to be taken for whole.
	ripe = 2 * time.Second
)

// rejected is the folder below processed_path of files that could not be read.
const rejected = "rejected"

// picker sends what is in the files of a folder, and moves them.
type picker struct{ dir, processed string }

func newPicker(args []string) (picker, error) {
	if len(args) != 2 || !filepath.IsAbs(args[0]) || !filepath.IsAbs(args[1]) || filepath.Clean(args[0]) == filepath.Clean(args[1]) {
		return picker{}, fmt.Errorf("telemetry pick_files: arguments %q: want two absolute paths, of the folder to pick files from and of the one to move them to", args)
	}
	return picker{filepath.Clean(args[0]), filepath.Clean(args[1])}, nil
}

// pick sends the files that are whole. One that cannot be read is moved aside, so
// that it is not in the way, and is in the error.
func (t *Telemetry) pick(ctx context.Context, p picker) error {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	picked := 0
	for _, e := range entries {
		if ctx.Err() != nil || picked == maxPickNow {
			break
		}
		decode, ok := decoders[strings.ToLower(filepath.Ext(e.Name()))]
		if !ok || strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(p.dir, e.Name())
		b, err := readRipe(path)
		if err == nil && b == nil {
			continue
		}
		picked++
		var frames []string
		if err == nil {
			frames, err = framesOf(b, decode)
		}
		to := p.processed
		if err != nil {
			to = filepath.Join(p.processed, rejected)
			errs = append(errs, fmt.Errorf("%s was moved to %s: %w", path, to, err))
		}
		for _, f := range frames {
			t.c.Send("JSON:" + f)
		}
		if err := move(path, to); err != nil {
			// It would be sent again and again.
			return errors.Join(append(errs, fmt.Errorf("%s was sent and cannot be moved: %w", path, err))...)
		}
	}
	return errors.Join(errs...)
}

// readRipe returns what is in a file, nil if it was written to just now.
func readRipe(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a plain file")
	case time.Since(info.ModTime()) < ripe:
		return nil, nil
	case info.Size() > maxPicked:
		return nil, fmt.Errorf("%d bytes; at most %d are read", info.Size(), maxPicked)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPicked))
	if b == nil {
		b = []byte{}
	}
	return b, err
}

// decoders make JSON values of files: one, or several rows.
var decoders = map[string]func([]byte) ([]any, error){
	".json": decodeJSON, ".yaml": decodeYAML, ".yml": decodeYAML, ".csv": decodeCSV,
}

func decodeJSON(b []byte) ([]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return rows(v), nil
}

func decodeYAML(b []byte) ([]any, error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return rows(v), nil
}

// decodeCSV makes an object of every row, with the names of the first one.
func decodeCSV(b []byte) ([]any, error) {
	all, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	var out []any
	for _, record := range all[1:] {
		row := map[string]string{}
		for i, name := range all[0] {
			row[name] = record[i]
		}
		out = append(out, row)
	}
	return out, nil
}

func rows(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// framesOf returns texts that fit frames: one value is itself, several are a list, or
// as many lists as it takes.
func framesOf(b []byte, decode func([]byte) ([]any, error)) ([]string, error) {
	values, err := decode(b)
	if err != nil {
		return nil, err
	}
	var texts []string
	for i, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("value %d: %w", i+1, err)
		}
		if len(text) > room {
			return nil, fmt.Errorf("value %d has %d bytes as JSON; at most %d fit a frame", i+1, len(text), room)
		}
		texts = append(texts, string(text))
	}
	if len(texts) == 1 {
		return texts, nil
	}
	var frames []string
	one := Telemetry{c: Config{Send: func(_ string, values ...string) { frames = append(frames, values...) }}}
	one.list("", texts)
	return frames, nil
}

// move moves a file to a folder. A file of that name there is kept.
func move(path, to string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	target := filepath.Join(to, filepath.Base(path))
	for i := 1; ; i++ {
		err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, target, unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.EEXIST) && i < 10000:
			target = filepath.Join(to, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // a file system that cannot
			return os.Rename(path, target)
		default:
			return err
		}
	}
}
