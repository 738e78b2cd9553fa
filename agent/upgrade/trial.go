package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Bounds of a trial.
const (
	TrialTime   = 5 * time.Minute
	TrialStarts = 4
)

// Trial is a new version that has not connected yet.
type Trial struct {
	Version string    `json:"version"`
	Program string    `json:"program"`
	Before  string    `json:"before"`         // what ran before
	Until   time.Time `json:"until,omitzero"` // set by the first start, which may be long after the switch
	Starts  int       `json:"starts"`
}

func (u *Upgrader) trialFile() string { return filepath.Join(u.versions(), "trial.json") }

// trial returns the trial that is under way; its Version is "" if there is none.
func (u *Upgrader) trial() (t Trial, err error) {
	f, err := os.Open(u.trialFile())
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, 64<<10)).Decode(&t); err != nil {
		return Trial{}, fmt.Errorf("%s: %w", u.trialFile(), err)
	}
	return t, nil
}

func (u *Upgrader) write(t Trial) error {
	b, err := json.MarshalIndent(t, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(u.versions(), ".trial-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(f.Name(), u.trialFile()), syncDir(u.versions()))
}

// Begin is to be called when the agent starts. If this program is on trial it counts
// the start and returns how long the trial goes on. If the trial has failed it goes
// back: then back is true, and the caller is to start Link instead of going on.
func (u *Upgrader) Begin() (left time.Duration, back bool, err error) {
	t, err := u.trial()
	if err != nil {
		return 0, false, errors.Join(err, os.Remove(u.trialFile()))
	}
	if t.Version == "" {
		return 0, false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	if !sameFile(self, t.Program) {
		// The switch did not come to pass, or somebody has switched by hand.
		u.Log.Warn("an upgrade was not finished", "version", t.Version, "running", self)
		return 0, false, os.Remove(u.trialFile())
	}
	if t.Until.IsZero() {
		t.Until = time.Now().Add(TrialTime)
	}
	t.Starts++
	// A clock that was set must not end or extend the trial much.
	left = min(time.Until(t.Until), TrialTime)
	switch {
	case t.Starts > TrialStarts:
		return 0, true, u.Back(fmt.Sprintf("it was started %d times without connecting", TrialStarts))
	case left <= 0:
		return 0, true, u.Back("it has not connected in time")
	}
	return left, false, u.write(t)
}

// Succeeded ends the trial: the new version has connected.
func (u *Upgrader) Succeeded() error {
	err := os.Remove(u.trialFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Back ends the trial and makes the link lead to what ran before.
func (u *Upgrader) Back(why string) error {
	t, err := u.trial()
	if err != nil || t.Version == "" {
		return err
	}
	u.Log.Error("the new version has failed, going back", "version", t.Version, "to", t.Before, "reason", why)
	if _, err := os.Stat(t.Before); err != nil {
		return fmt.Errorf("cannot go back from version %s: %w", t.Version, err)
	}
	if err := u.link(t.Before); err != nil {
		return fmt.Errorf("go back from version %s: %w", t.Version, err)
	}
	return os.Remove(u.trialFile())
}

// Watch waits for connected to be closed, for the time of the trial. If that passes it
// goes back and returns true: the caller is to start Link.
func (u *Upgrader) Watch(ctx context.Context, left time.Duration, connected <-chan struct{}) (back bool, err error) {
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-connected:
		return false, u.Succeeded()
	case <-ctx.Done():
		return false, nil // the next start goes on with the trial
	case <-t.C:
		return true, u.Back("it has not connected in time")
	}
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
