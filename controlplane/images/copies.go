package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
)

const (
	// copyPrefix begins the name of a file that is being copied from another server.
	copyPrefix = "copy-"
	// maxCopies bounds the transfers from other servers that go on at once.
	maxCopies = 2
	// copyWait is how long a request waits for a copy; the chassis asks again.
	copyWait = 20 * time.Second
	// copyEvery is how often images that other servers have taken in are looked for.
	copyEvery = 10 * time.Second
	// strayAge is how old a file without an image must be to be removed: the file
	// is there before the image is in the store.
	strayAge = time.Hour
)

// copying is a transfer that requests may wait for.
type copying struct {
	done chan struct{}
	err  error // set before done is closed
}

// peerClient talks to other servers of the estate, which may be on this machine.
var peerClient = &http.Client{
	Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true, // the digest is of the file as it is
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Keep has a copy of every image of the estate on this server, so that none is
// lost with the server that took it in, until ctx ends.
func (l *Library) Keep(ctx context.Context) {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	for {
		missing, err := l.store.ImagesElsewhere(ctx, store.MaxPage)
		if err != nil && ctx.Err() == nil {
			l.log.Error("cannot look for images of other servers", "error", err)
		}
		for _, img := range missing {
			if _, err := os.Lstat(filepath.Join(l.dir, img.ID)); err == nil { // it could not be recorded before
				if err := l.store.AddImageCopy(ctx, img.ID); err != nil && ctx.Err() == nil {
					l.log.Error("cannot record an image's copy", "image", img.Name, "error", err)
				}
				continue
			}
			holders, err := l.store.ImageHolders(ctx, img.ID)
			if err != nil || len(holders) == 0 {
				continue // it comes when a server that has it is back
			}
			if err := l.await(ctx, l.copy(img)); err != nil && ctx.Err() == nil {
				l.log.Warn("cannot copy an image", "image", img.Name, "error", err)
			}
		}
		if err := l.sweep(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("cannot remove files of images that are gone", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep removes files of images that were removed on another server.
func (l *Library) sweep(ctx context.Context) error {
	files, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		id := strings.TrimPrefix(f.Name(), copyPrefix)
		if uuid.Validate(id) != nil {
			continue
		}
		info, err := f.Info()
		if err != nil || time.Since(info.ModTime()) < strayAge {
			continue
		}
		if _, err := l.store.Image(ctx, id); err == nil {
			continue
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := os.Remove(filepath.Join(l.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// copy begins to copy an image's file from another server, or joins a transfer
// that goes on.
func (l *Library) copy(img store.Image) *copying {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.copies[img.ID]; c != nil {
		return c
	}
	c := &copying{done: make(chan struct{})}
	l.copies[img.ID] = c
	go func() {
		select {
		case l.slots <- struct{}{}:
			c.err = l.copyFromAny(l.ctx, img)
			<-l.slots
		case <-l.ctx.Done():
			c.err = l.ctx.Err()
		}
		l.mu.Lock()
		delete(l.copies, img.ID)
		l.mu.Unlock()
		close(c.done)
	}()
	return c
}

func (l *Library) await(ctx context.Context, c *copying) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// elsewhere waits a while for the file of an image that another server has.
func (l *Library) elsewhere(img store.Image) (*os.File, error) {
	c := l.copy(img)
	select {
	case <-c.done:
	case <-time.After(copyWait):
		return nil, fmt.Errorf("image %s is being copied from another server: %w: ask again", img.Name, store.ErrUnavailable)
	}
	if c.err != nil {
		return nil, c.err
	}
	return os.Open(filepath.Join(l.dir, img.ID))
}

func (l *Library) copyFromAny(ctx context.Context, img store.Image) error {
	holders, err := l.store.ImageHolders(ctx, img.ID)
	if err != nil {
		return err
	}
	failed := fmt.Errorf("image %s: no server that lives has its file: %w", img.Name, store.ErrUnavailable)
	for i, v := range holders {
		began := time.Now()
		if err = l.copyFrom(ctx, img, v); err == nil {
			l.log.Info("copied an image", "image", img.Name, "from", v.Name, "bytes", img.Size, "seconds", time.Since(began).Seconds())
			return l.store.AddImageCopy(ctx, img.ID)
		}
		err = fmt.Errorf("copy image %s from server %s (%s): %w", img.Name, v.Name, v.Boot, err)
		if i == 0 {
			failed = err
		} else {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// copyFrom fetches what is missing of the file from one server. It takes its name
// only once it has the digest that the store has of it.
func (l *Library) copyFrom(ctx context.Context, img store.Image, from store.Server) (err error) {
	path := filepath.Join(l.dir, copyPrefix+img.ID)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	have, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 1<<20)) // left by a transfer that was cut short
	if err != nil {
		return err
	}
	if have < img.Size {
		if err := l.receive(ctx, img, from, have, io.MultiWriter(f, sum)); err != nil {
			return err
		}
	}
	if digest := hex.EncodeToString(sum.Sum(nil)); have > img.Size || digest != img.SHA256 {
		os.Remove(path) // the next attempt begins anew
		return fmt.Errorf("its sha256 is %s, expected %s", digest, img.SHA256)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(l.dir, img.ID)); err != nil {
		return err
	}
	return syncDir(l.dir)
}

// receive writes the file's bytes from an offset on to w.
func (l *Library) receive(ctx context.Context, img store.Image, from store.Server, offset int64, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, URL(from.Boot, l.key, img.ID, time.Now().Add(time.Hour)), nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := peerClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != img.Size-offset {
		return fmt.Errorf("it has %d bytes from %d on, expected %d", resp.ContentLength, offset, img.Size-offset)
	}
	watchdog := time.AfterFunc(stall, func() { cancel(fmt.Errorf("it has sent nothing for %v", stall)) })
	defer watchdog.Stop()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(&petting{resp.Body, watchdog}, img.Size-offset), make([]byte, 1<<20))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil && n < img.Size-offset {
		err = io.ErrUnexpectedEOF
	}
	return err
}
