package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Change is what an operator wants of a host's apps.
type Change struct {
	// Set replaces the whole set, unless it is nil.
	Set map[string]wire.App
	// Put adds apps or replaces those of their names; Remove takes apps out.
	Put    map[string]wire.App
	Remove []string
	// Replace allows to take over a host that has apps which nobody here asked for and
	// that are not in the new set: they are removed from it.
	Replace bool
	// Unseen allows a host that is no chassis and has never said anything.
	Unseen bool
	// Revision, unless it is 0, is what must be desired still: the change was made from it.
	Revision int64
	By       string // the user
}

// maxDesired bounds a set of apps, in bytes, so that it fits into a message with what
// is around it.
const maxDesired = wire.MaxBody - 4<<10

// maxBySession is the same for a chassis that is told over its session.
const maxBySession = teeth.MaxLine - 4<<10

// Find returns the id of the host that ref means, and the chassis that it is: a chassis
// by anything that names one, or a host by what its slave calls it.
func (m *Master) Find(ctx context.Context, ref string) (id, chassis string, err error) {
	c, err := m.c.Store.FindChassis(ctx, ref)
	if err == nil {
		return c.ID, c.ID, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return "", "", err
	}
	h, err := m.c.Store.AppHost(ctx, ref)
	if errors.Is(err, store.ErrNotFound) {
		return "", "", fmt.Errorf("%.80q is no chassis, and no host that has said something of its apps: %w", ref, store.ErrNotFound)
	}
	return h.ID, h.Chassis, err
}

// Host shows a host. A chassis of whose apps nothing is known yet has none.
func (m *Master) Host(ctx context.Context, ref string) (Host, error) {
	id, chassis, err := m.Find(ctx, ref)
	if err != nil {
		return Host{}, err
	}
	h, err := m.c.Store.AppHost(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		h, err = store.AppHost{ID: id, Chassis: chassis}, nil
	}
	if err != nil {
		return Host{}, err
	}
	return view(h, m.c.Store.Now(), true), nil
}

// List shows up to limit hosts whose id comes after the given one.
func (m *Master) List(ctx context.Context, after string, limit int) ([]Host, error) {
	found, err := m.c.Store.ListAppHosts(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	now := m.c.Store.Now()
	all := make([]Host, len(found))
	for i, h := range found {
		all[i] = view(h, now, false)
	}
	return all, nil
}

// Change sets what is desired of a host's apps, and returns when that is stored: the
// host is told as soon as it is there.
func (m *Master) Change(ctx context.Context, ref string, c Change) (Host, error) {
	id, chassis, err := m.Find(ctx, ref)
	if errors.Is(err, store.ErrNotFound) && c.Unseen {
		if err = wire.CheckHostID(ref); err != nil {
			return Host{}, fmt.Errorf("%w: %w", store.ErrInvalid, err)
		}
		id = ref
	}
	if err != nil {
		return Host{}, err
	}
	h, err := m.c.Store.DesireApps(ctx, id, chassis, c.By, func(h *store.AppHost) error { return c.apply(h) })
	if err != nil {
		return Host{}, err
	}
	return view(h, m.c.Store.Now(), true), nil
}

// apply sets what is desired of h.
func (c Change) apply(h *store.AppHost) error {
	if c.Revision != 0 && c.Revision != h.Revision {
		return fmt.Errorf("what is desired of host %s was changed meanwhile by %.64q: look at it, and try again: %w", h.ID, h.ChangedBy, store.ErrConflict)
	}
	p := parse(*h)
	apps := maps.Clone(p.desired)
	if c.Set != nil {
		apps = maps.Clone(c.Set)
	}
	if apps == nil {
		apps = map[string]wire.App{}
	}
	maps.Copy(apps, c.Put)
	for _, name := range c.Remove {
		if _, ok := apps[name]; !ok {
			return fmt.Errorf("no app %.64q is desired of host %s: %w", name, h.ID, store.ErrNotFound)
		}
		delete(apps, name)
	}
	if err := wire.CheckApps(apps); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	if p.desired == nil && p.status != nil && !c.Replace {
		if others := missing(p.status.Apps, apps); len(others) > 0 {
			return fmt.Errorf("host %s has apps that nobody here has asked for, and would remove them: %.200s; allow it to (--replace), or name them in a whole set: %w",
				h.ID, strings.Join(others, ", "), store.ErrConflict)
		}
	}
	b, err := json.Marshal(apps)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	most := maxDesired
	if h.Transport == viaSession {
		most = maxBySession
	}
	if len(b) > most {
		return fmt.Errorf("%w: the apps of host %s are %d bytes, the most is %d", store.ErrInvalid, h.ID, len(b), most)
	}
	if _, err := (wire.Envelope{Opcode: wire.SetConfig, Data: b}).Append(nil); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	h.Desired = b
	p.desired, p.Revision = apps, 0 // the new one, which no slave has yet
	h.Settled = p.settled()
	return nil
}

// missing are the names in a that b does not have.
func missing(a, b map[string]wire.App) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// Forget makes nothing desired of a host: its apps are left as they are.
func (m *Master) Forget(ctx context.Context, ref string) error {
	id, _, err := m.Find(ctx, ref)
	if err != nil {
		return err
	}
	return m.c.Store.ForgetApps(ctx, id)
}
