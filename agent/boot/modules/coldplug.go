package modules

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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

	mu       sync.Mutex
	seen     map[string]bool
	inFlight int
	active   time.Time // last event or end of a load
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
	p.active = time.Now()
	p.mu.Unlock()
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
					p.plug(ctx, e.modalias)
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
		calm := p.inFlight == 0 && time.Since(p.active) >= quiet
		p.mu.Unlock()
		if calm && !p.controllersBusy() {
			found := len(p.seenNow())
			_ = p.scan(ctx) // an unreadable tree was reported by Start
			if len(p.seenNow()) == found {
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

func (p *Plugger) seenNow() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]bool, len(p.seen))
	for k := range p.seen {
		out[k] = true
	}
	return out
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

// scan loads what every device of the tree calls for.
func (p *Plugger) scan(ctx context.Context) error {
	return filepath.WalkDir(filepath.Join(p.Sysfs, "devices"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // devices go away while we look
				return nil
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.Name() == "modalias" && d.Type().IsRegular() {
			if alias := strings.TrimSpace(readAttr(path)); alias != "" {
				p.plug(ctx, alias)
			}
		}
		return nil
	})
}

// plug loads the drivers of one modalias unless that was done before.
func (p *Plugger) plug(ctx context.Context, modalias string) {
	p.mu.Lock()
	if p.seen[modalias] {
		p.mu.Unlock()
		return
	}
	p.seen[modalias] = true
	p.inFlight++
	p.mu.Unlock()
	lastwords.Go("coldplug "+modalias, func() {
		err := p.Loader.Load(ctx, modalias)
		if err != nil && p.Failed != nil {
			p.Failed(err)
		}
		p.mu.Lock()
		p.inFlight--
		p.active = time.Now()
		p.mu.Unlock()
	})
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
