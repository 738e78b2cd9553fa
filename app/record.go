package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// record is what is kept of an app, in Root/NAME/app.json. It names the directory of
// the app's files, so that to write it is to install the app.
type record struct {
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	URL      string          `json:"url,omitempty"`
	Digest   string          `json:"digest"`
	Dir      string          `json:"dir"`
	Config   json.RawMessage `json:"config"`
	Limits   Limits          `json:"limits"`
	Manifest string          `json:"manifest"` // YAML, with services found in the package
	Program  string          `json:"program,omitempty"`
	Services map[string]bool `json:"services"` // as they should be
	// Finished are exit statuses of services that ended and are not to be started
	// again.
	Finished map[string]int `json:"finished,omitempty"`
}

const (
	recordFile = "app.json"
	maxRecord  = 4 << 20
	treePrefix = "root."
)

func (h *Host) readRecord(name string) (record, error) {
	var rec record
	path := filepath.Join(name, recordFile)
	st, err := h.root.Lstat(path)
	if err != nil {
		return rec, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxRecord {
		return rec, fmt.Errorf("%s: not a file of at most %d bytes", recordFile, maxRecord)
	}
	b, err := h.root.ReadFile(path)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("%s: %w", recordFile, err)
	}
	if rec.Name != name || !strings.HasPrefix(rec.Dir, treePrefix) || strings.ContainsRune(rec.Dir, '/') {
		return rec, fmt.Errorf("%s: is not of this app", recordFile)
	}
	if st, err := h.root.Lstat(filepath.Join(name, rec.Dir)); err != nil || !st.IsDir() {
		return rec, fmt.Errorf("%s: its directory %s is not there", recordFile, rec.Dir)
	}
	return rec, nil
}

// sweep removes what is in an app's directory beside its record and dir.
func (h *Host) sweep(name, dir string) error {
	names, err := h.names(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if n != recordFile && n != dir {
			errs = append(errs, h.root.RemoveAll(filepath.Join(name, n)))
		}
	}
	return errors.Join(errs...)
}

// save writes the record. h.mu is held, or the app not yet in h.apps. Where an app has
// taken all room, packages that are only kept give way.
func (h *Host) save(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	err = h.write(rec, b)
	if errors.Is(err, unix.ENOSPC) {
		if terr := h.cache.Trim(); terr != nil {
			return errors.Join(err, terr)
		}
		err = h.write(rec, b)
	}
	return err
}

func (h *Host) write(rec record, b []byte) error {
	path := filepath.Join(rec.Name, recordFile)
	f, err := h.root.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, h.root.Remove(path+".new"))
	}
	if err := h.root.Rename(path+".new", path); err != nil {
		return err
	}
	return h.syncDir(rec.Name)
}

func (h *Host) syncDir(name string) error {
	d, err := h.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
