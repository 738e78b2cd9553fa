// Package rackhd is the agent's end of RackHD's tasks API: it asks a server over
// HTTP for shell commands, runs them one after the other, and posts how they went.
//
// The server may be our control plane (package controlplane/rackhd/node), to which
// it shows the capability that came over the session, or one of RackHD itself. A
// report is posted until somebody has answered it; what has been reported is never
// run a second time, even if the server hands it out again.
//
// Commands need a shell, which the appliance image has only together with the
// rescue image. Without one every command is reported as failed, with that reason:
// taking apart lines that were written for a shell would be a guess.
package rackhd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

// Exit codes with which a server ends the polling; all others reboot.
const (
	ExitPowerCycle = 2
	ExitStay       = 127 // up, and no more commands
)

// Config of a Node.
type Config struct {
	// URL is the server's: http:// or https://, host and port. A path is where the
	// API is; /api/current unless given.
	URL string
	MAC string // of the boot NIC, by which RackHD knows the node
	// Capability returns what our control plane wants to see, or "" as long as there
	// is none; nil: there will be none.
	Capability func() string
	TLS        *tls.Config // for https
	// AnyHost lets files be downloaded from other hosts than the server.
	AnyHost bool
	// Hold keeps other disruptive work away until release is called. ctx ends when
	// commands are to stop. An error means that there is such work now.
	Hold func(what string) (ctx context.Context, release func(), err error)
	// Leave ends this boot as the server wants it, with an exit code other than
	// ExitStay. It is called after the report has arrived.
	Leave func(code int)
	Log   *slog.Logger

	Shell string        // "/bin/sh" unless set
	Dir   string        // where files are kept for the time of a run; os.TempDir() unless set
	Pause time.Duration // between two looks, 5 s unless set; all other waits are in proportion
	Limit time.Duration // for a command without a timeout of its own; an hour unless set
}

// Node polls one server.
type Node struct {
	c    Config
	base *url.URL // of the API, with a slash at the end
	http *http.Client
	id   string // this node's, once the server has said it
	last report // newest that was made
}

// report is what is posted.
type report struct {
	task string // taskId; "" with a server that gives none
	body []byte
}

// ParseURL checks the URL of a server.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(s) > 512 {
		return nil, fmt.Errorf("%.80q is not the URL of a server: want http://HOST:PORT or https://HOST:PORT", s)
	}
	return u, nil
}

// New returns a Node that does nothing before Run.
func New(c Config) (*Node, error) {
	base, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	if c.Hold == nil || c.Leave == nil || c.Log == nil {
		return nil, errors.New("rackhd: Hold, Leave and Log must be set")
	}
	if base.Scheme == "https" && c.TLS == nil {
		return nil, fmt.Errorf("%s: https needs something to know the server by: give teeth.ca_sha256", base)
	}
	if base.Path == "" || base.Path == "/" {
		base.Path = "/api/current"
	}
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	if c.Capability == nil {
		c.Capability = func() string { return "" }
	}
	for d, otherwise := range map[*time.Duration]time.Duration{&c.Pause: 5 * time.Second, &c.Limit: time.Hour} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if c.Shell == "" {
		c.Shell = "/bin/sh"
	}
	if c.Dir == "" {
		c.Dir = os.TempDir()
	}
	n := &Node{c: c, base: base}
	n.http = &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig:       c.TLS,
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute, // a report may wait for its turn
			MaxIdleConnsPerHost:   1,
			IdleConnTimeout:       time.Minute,
		},
		CheckRedirect: n.redirect,
	}
	return n, nil
}

// longest is the longest wait, in pauses: a minute.
const longest = 12

// Run polls until ctx ends, whose error it returns, or until the server has ended
// it: then it is nil.
func (n *Node) Run(ctx context.Context) error {
	defer n.http.CloseIdleConnections()
	n.c.Log.Info("asking for commands", "server", n.base.String())
	n.awaitCapability(ctx)
	failures := 0
	for ctx.Err() == nil {
		batch, err := n.fetch(ctx)
		switch {
		case err != nil:
			failures++
			// Once, and now and then: the server may be away for hours.
			if failures == 1 || failures%60 == 0 {
				n.c.Log.Warn("cannot ask for commands", "server", n.base.String(), "err", err)
			}
		case batch != nil:
			failures = 0
			if stop, err := n.work(ctx, *batch); stop || err != nil {
				return err
			}
		default:
			failures = 0
		}
		n.wait(ctx, min(max(failures, 1), longest))
	}
	return ctx.Err()
}

// awaitCapability waits a moment for the session, without which our control plane
// would only refuse us.
func (n *Node) awaitCapability(ctx context.Context) {
	for i := 0; i < 6 && n.c.Capability() == "" && ctx.Err() == nil; i++ {
		n.wait(ctx, 1)
	}
}

// wait waits for so many pauses.
func (n *Node) wait(ctx context.Context, pauses int) {
	t := time.NewTimer(time.Duration(pauses) * n.c.Pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// work does what was handed out, and reports it. It says whether to stop polling.
func (n *Node) work(ctx context.Context, batch wire.NodeTasks) (stop bool, err error) {
	log := n.c.Log.With("task", batch.TaskID)
	if batch.TaskID != "" && batch.TaskID == n.last.task {
		log.Warn("the server has lost the report on these commands: sending it again")
	} else {
		body, err := n.perform(ctx, batch)
		if err != nil || body == nil {
			return false, err
		}
		n.last = report{batch.TaskID, body}
	}
	taken, err := n.post(ctx, n.last.body)
	if err != nil {
		return true, err
	}
	if batch.TaskID == "" {
		n.last = report{} // it cannot be told from another one
	}
	if batch.Exit == nil || !taken { // who does not want the report has given up the rest, too
		return false, nil
	}
	log.Info("told to end polling", "exit", int(*batch.Exit))
	if *batch.Exit == ExitStay {
		return true, nil
	}
	// Work that has begun since the commands ended must not be cut off.
	_, release, err := n.hold(ctx, "the end of this boot, as the control plane wants it", true)
	if err != nil {
		return true, err
	}
	defer release()
	n.c.Leave(int(*batch.Exit))
	return true, nil
}

// perform runs what was handed out and returns the report; nil: not now.
func (n *Node) perform(ctx context.Context, batch wire.NodeTasks) ([]byte, error) {
	asks := true // whether we are there, and nothing else
	for _, t := range batch.Tasks {
		asks = asks && t.Cmd == "" && t.DownloadURL == ""
	}
	if !asks {
		// Our control plane hands them out again, if they have not been given up
		// meanwhile. RackHD does not.
		held, release, err := n.hold(ctx, "commands of the control plane", batch.TaskID == "")
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, nil
		}
		defer release()
		ctx = held
	}
	n.c.Log.Info("running commands", "task", batch.TaskID, "count", len(batch.Tasks))
	body := n.runAll(ctx, &batch)
	if ctx.Err() != nil {
		// Cut short by a shutdown. The control plane hands them out again, and RackHD
		// is told nothing that is not so.
		return nil, context.Cause(ctx)
	}
	return body, nil
}

// hold keeps other disruptive work away, and if told to waits for its end. The
// context ends with ctx as well as when commands are to stop.
func (n *Node) hold(ctx context.Context, what string, wait bool) (_ context.Context, release func(), err error) {
	for told := false; ; told = true {
		held, release, err := n.c.Hold(what)
		if err == nil {
			held, cancel := context.WithCancelCause(held)
			stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
			return held, func() { stop(); cancel(nil); release() }, nil
		}
		if !told {
			n.c.Log.Info("not now", "what", what, "err", err)
		}
		if !wait {
			return nil, nil, err
		}
		if n.wait(ctx, 1); ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
}

// runAll does the tasks until one fails, and returns the report.
func (n *Node) runAll(ctx context.Context, batch *wire.NodeTasks) []byte {
	batch.Tasks = slices.Clone(batch.Tasks)
	dir, err := os.MkdirTemp(n.c.Dir, "rackhd-")
	if err != nil {
		fail(batch, 0, err)
		return encode(*batch)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			n.c.Log.Warn("files of commands are left behind", "dir", dir, "err", err)
		}
	}()
	size := len(encode(*batch))
	for i := range batch.Tasks {
		goOn := n.run(ctx, dir, &batch.Tasks[i])
		if size += len(encode(wire.NodeTasks{Tasks: batch.Tasks[i : i+1]})); size > reportLimit {
			fail(batch, i, fmt.Errorf("the output of all commands together makes a report of %d bytes, the most is %d", size, reportLimit))
			break
		}
		if !goOn {
			break
		}
	}
	return encode(*batch)
}

// reportLimit leaves room for what a server counts differently.
const reportLimit = wire.MaxNodePost - 64<<10

// fail makes a task one that has failed for a reason that is not its exit code.
func fail(batch *wire.NodeTasks, i int, err error) {
	if i < len(batch.Tasks) {
		t := &batch.Tasks[i]
		t.Stdout, t.Stderr, t.Error = nil, nil, &wire.NodeError{Text: err.Error()}
	}
}
