package agent

import (
	"fmt"
	"strings"
	"sync"

	"github.com/teeth-metal/teeth/blockdev"
)

// content is what a disk is known to hold, since this agent put it there.
type content struct {
	zero  bool   // every byte reads as zero
	image string // id of the image
}

// contents is what disks hold. Of a disk without serial number and WWN nothing
// is remembered: another one in its place would look the same, and a disk that is
// wrongly taken for zero keeps the former tenant's data.
type contents struct {
	mu    sync.Mutex
	disks map[place]content
}

type place struct {
	path string // two LUNs may share an identity
	id   blockdev.Identity
}

// set records what d holds. Whoever writes to a disk calls forget before the
// first write.
func (c *contents) set(d blockdev.Info, holds content) {
	if d.Serial == "" && d.WWN == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disks == nil {
		c.disks = map[place]content{}
	}
	c.disks[place{d.Path, d.Identity()}] = holds
}

func (c *contents) forget(d blockdev.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.disks, place{d.Path, d.Identity()})
}

// of returns what d holds; the zero value is that nothing is known.
func (c *contents) of(d blockdev.Info) content {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.disks[place{d.Path, d.Identity()}]
}

// bootable refuses to boot from d what is known not to be there.
func (c *contents) bootable(d blockdev.Info, image string) error {
	switch holds := c.of(d); {
	case holds.zero:
		return fmt.Errorf("disk %s was erased and nothing written to it since: prepare image %s first", d.Path, image)
	case holds.image != "" && !strings.EqualFold(holds.image, image):
		return fmt.Errorf("disk %s holds image %s, not %s: prepare that first", d.Path, holds.image, image)
	}
	return nil
}
