package rackhd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

const (
	maxAnswer    = 8 << 20  // bytes of what a server says
	maxDownload  = 64 << 20 // bytes of a file: it lies in memory
	requestTime  = 5 * time.Minute
	downloadTime = 15 * time.Minute
	maxRedirects = 5
)

// identifier finds the node's id in the client that a server gives to nodes with
// JavaScript. RackHD has no other place to learn it from.
var identifier = regexp.MustCompile(`["'/]([0-9a-fA-F]{24})["'?/]`)

// request does one exchange and returns a bounded answer.
func (n *Node) request(ctx context.Context, method string, u *url.URL, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", wire.ContentType)
	}
	// Not in the query: proxies and servers log that.
	if c := n.c.Capability(); c != "" {
		r.Header.Set("Authorization", "Bearer "+c)
	}
	resp, err := n.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(answer) > maxAnswer {
		err = fmt.Errorf("%s: the answer has more than %d bytes", u.Path, maxAnswer)
	}
	return resp.StatusCode, answer, err
}

// identify learns this node's id.
func (n *Node) identify(ctx context.Context) error {
	u := n.base.JoinPath("tasks/bootstrap.js")
	u.RawQuery = url.Values{"macAddress": {strings.ToLower(n.c.MAC)}}.Encode()
	status, answer, err := n.request(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("the server does not say which node has MAC address %s: status %d", n.c.MAC, status)
	}
	found := identifier.FindSubmatch(answer)
	if found == nil {
		return fmt.Errorf("%s names no node", u.Path)
	}
	n.id = string(found[1])
	n.c.Log.Info("known to the server", "node", n.id)
	return nil
}

func (n *Node) tasks() *url.URL { return n.base.JoinPath("tasks", n.id) }

// fetch returns what there is to do; nil: nothing. As RackHD's own client takes it,
// an answer that is not a list of tasks is nothing.
func (n *Node) fetch(ctx context.Context) (*wire.NodeTasks, error) {
	if n.id == "" {
		if err := n.identify(ctx); err != nil {
			return nil, err
		}
	}
	status, answer, err := n.request(ctx, http.MethodGet, n.tasks(), nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound:
		return nil, nil
	case status != http.StatusOK:
		n.id = "" // the server may have another one by now
		return nil, fmt.Errorf("the server refuses: status %d: %.200q", status, answer)
	}
	batch, err := wire.ParseNodeTasks(answer, maxAnswer)
	if err != nil {
		n.c.Log.Warn("what the server wants to be done cannot be understood", "err", err)
		return nil, nil
	}
	if len(batch.Tasks) == 0 && batch.Exit == nil {
		return nil, nil
	}
	for i := range batch.Tasks { // they are ours to fill in
		batch.Tasks[i].Stdout, batch.Tasks[i].Stderr, batch.Tasks[i].Error = nil, nil, nil
	}
	return &batch, nil
}

// post sends a report until it has arrived, for ever, and says whether the server
// has taken it. An error is the end of ctx.
func (n *Node) post(ctx context.Context, body []byte) (taken bool, err error) {
	for failures := 1; ; failures++ {
		status, answer, err := n.request(ctx, http.MethodPost, n.tasks(), body)
		switch {
		case err == nil && status < 300:
			return true, nil
		case err == nil && final(status):
			// It has given the commands up, or does not take it, and would not later.
			n.c.Log.Error("the server refuses the report on its commands", "status", status, "answer", fmt.Sprintf("%.200q", answer))
			return false, nil
		case failures == 1 || failures%60 == 0:
			n.c.Log.Warn("a report has not arrived yet", "status", status, "err", err)
		}
		if n.wait(ctx, min(failures, longest)); ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
}

// final reports whether a status says that the same would be answered later.
func final(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

// download saves a file in dir, under the last part of its path. It may be given
// relative to the server.
func (n *Node) download(ctx context.Context, dir, from string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("downloadUrl %.200q: %w", from, err)
		}
	}()
	u, err := n.base.Parse(from)
	if err != nil {
		return err
	}
	if err := n.allowed(u); err != nil {
		return err
	}
	name := path.Base(u.Path)
	if name == "." || name == "/" || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
		return errors.New("it names no file")
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := n.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	file := filepath.Join(dir, name)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	size, err := io.Copy(f, io.LimitReader(resp.Body, maxDownload+1))
	if err == nil && size > maxDownload {
		err = fmt.Errorf("the file has more than %d bytes", int64(maxDownload))
	}
	return errors.Join(err, f.Chmod(0o555), f.Close())
}

// allowed reports why a file may not be fetched from there.
func (n *Node) allowed(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return fmt.Errorf("want http or https, not %q", u.Scheme)
	}
	if !n.c.AnyHost && !strings.EqualFold(u.Hostname(), n.base.Hostname()) {
		return fmt.Errorf("%s is another host than the server %s: allow it with teeth.rackhd_downloads=any", u.Hostname(), n.base.Hostname())
	}
	return nil
}

func (n *Node) redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	if err := n.allowed(r.URL); err != nil {
		return err
	}
	if r.Header.Get("Authorization") != "" && r.URL.Host != via[0].URL.Host {
		return errors.New("redirected to another server, which the capability is not for")
	}
	return nil
}
