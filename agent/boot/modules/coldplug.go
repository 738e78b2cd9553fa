package modules

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/agent/boot/lastwords"
)

// maxModalias bounds what is read of one modalias; the kernel's attributes are
// at most one page.
const maxModalias = 4096

// Plugger keeps the drivers of a machine loaded: those for the devices it
// finds at the start, those for the devices that these bring along, and those
// plugged in later.
type Plugger struct {
	Loader *Loader
	Sysfs  string      // where sysfs is mounted, "" means /sys
	Failed func(error) // called for each module that would not load; may be nil

	// events delivers the kernel's events; nil opens the uevent socket.
	events func(ctx context.Context) (<-chan event, error)

	mu      sync.Mutex
	wake    *sync.Cond // something is queued, or the end has come
	seen    map[string]bool
	queue   []string
	pending int       // queued or being loaded
	active  time.Time // last event or end of a load
}

// event is one uevent: the modalias of the device, "" if it has none. An
// overrun means that events were lost and the tree must be read again.
type event struct {
	modalias string
	overrun  bool
}

// Start reads the device tree, begins to load what it calls for, and goes on
// doing so for devices that appear until ctx is done. It returns as soon as
// the tree has been read: Settle waits for the drivers. An error means that
// later devices will not be noticed by themselves; Settle still finds those of
// the boot.
func (p *Plugger) Start(ctx context.Context) error {
	p.mu.Lock()
	p.seen = map[string]bool{}
	p.wake = sync.NewCond(&p.mu)
	p.active = time.Now()
	p.mu.Unlock()
	context.AfterFunc(ctx, p.wake.Broadcast)
	for range workers {
		lastwords.Go("coldplug", func() { p.work(ctx) })
	}
	if p.Sysfs == "" {
		p.Sysfs = "/sys"
	}
	listen := p.events
	if listen == nil {
		listen = uevents
	}
	// Listening begins before the tree is read, so that nothing falls between.
	events, err := listen(ctx)
	if err == nil {
		lastwords.Go("hotplug", func() {
			for e := range events {
				p.touch()
				if e.overrun {
					_ = p.scan(ctx) // an unreadable tree was reported by Start
				} else if e.modalias != "" {
					p.plug(e.modalias)
				}
			}
		})
	}
	return errors.Join(err, p.scan(ctx))
}

// Settle waits until no load is under way and no event has come for quiet,
// having read the tree once more at the end. It reports whether that happened
// within limit and before ctx was done.
func (p *Plugger) Settle(ctx context.Context, quiet, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		calm := p.pending == 0 && time.Since(p.active) >= quiet
		p.mu.Unlock()
		if calm && !p.controllersBusy() {
			before := p.found()
			_ = p.scan(ctx) // an unreadable tree was reported by Start
			if p.found() == before && ctx.Err() == nil {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// found is how many different modaliases there have been.
func (p *Plugger) found() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

// controllersBusy reports whether an NVMe controller is still starting up: its
// disks appear only after that, without any event in between.
func (p *Plugger) controllersBusy() bool {
	states, _ := filepath.Glob(filepath.Join(p.Sysfs, "class/nvme/*/state"))
	for _, s := range states {
		switch strings.TrimSpace(readAttr(s)) {
		case "new", "connecting", "resetting":
			return true
		}
	}
	return false
}

// scan queues what every device of the tree calls for, NICs first: of all
// hardware, their links take the longest to come up.
func (p *Plugger) scan(ctx context.Context) error {
	var nics, others []string
	err := filepath.WalkDir(filepath.Join(p.Sysfs, "devices"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // devices go away while we look
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.Name() != "modalias" || !d.Type().IsRegular():
			return nil
		}
		alias := strings.TrimSpace(readAttr(path))
		switch {
		case alias == "":
		case isNIC(alias):
			nics = append(nics, alias)
		default:
			others = append(others, alias)
		}
		return nil
	})
	for _, alias := range slices.Concat(nics, others) {
		p.plug(alias)
	}
	return err
}

// isNIC reports whether a modalias is of a PCI device of the base class
// network, or of virtio's network device.
func isNIC(alias string) bool {
	return strings.HasPrefix(alias, "pci:") && strings.Contains(alias, "bc02") ||
		strings.HasPrefix(alias, "virtio:d00000001v")
}

// plug queues one modalias unless that was done before.
func (p *Plugger) plug(modalias string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[modalias] {
		return
	}
	p.seen[modalias] = true
	p.pending++
	if isNIC(modalias) {
		p.queue = slices.Insert(p.queue, 0, modalias)
	} else {
		p.queue = append(p.queue, modalias)
	}
	p.wake.Signal()
}

// work loads what is queued until ctx is done.
func (p *Plugger) work(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ctx.Err() == nil {
		if len(p.queue) == 0 {
			p.wake.Wait()
			continue
		}
		alias := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		if err := p.Loader.Load(ctx, alias); err != nil && ctx.Err() == nil && p.Failed != nil {
			p.Failed(err)
		}
		p.mu.Lock()
		p.pending--
		p.active = time.Now()
	}
}

func (p *Plugger) touch() {
	p.mu.Lock()
	p.active = time.Now()
	p.mu.Unlock()
}

// readAttr returns the content of a sysfs attribute, "" if there is none.
func readAttr(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, maxModalias)
	n, err := f.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}
