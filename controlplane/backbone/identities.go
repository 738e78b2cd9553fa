package backbone

import (
	"context"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

const (
	knownFor      = 30 * time.Second // a chassis that is discovered later is one after it
	maxIdentities = 50_000
)

// identities remembers for a while which chassis hosts are. The zero value is ready.
type identities struct {
	mu   sync.Mutex
	kept map[string]identity
}

type identity struct {
	chassis string
	until   time.Time
}

// chassis returns the id of the chassis that a slave's host id means; "" if none.
func (i *identities) chassis(ctx context.Context, s *store.Store, host string) (string, error) {
	now := time.Now()
	i.mu.Lock()
	known, ok := i.kept[host]
	i.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.chassis, nil
	}
	chassis, err := s.ChassisOfHost(ctx, host)
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.kept == nil || len(i.kept) >= maxIdentities {
		i.kept = map[string]identity{}
	}
	i.kept[host] = identity{chassis, now.Add(knownFor)}
	return chassis, nil
}
