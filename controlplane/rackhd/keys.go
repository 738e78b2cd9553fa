package rackhd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

func badRequest(format string, args ...any) error {
	return refusal{"BadRequestError", 400, fmt.Errorf(format, args...)}
}

// wildcards returns the words of key that "*" in pattern stands for. Patterns
// here have no "#".
func wildcards(pattern, key string) []string {
	var found []string
	words := strings.Split(key, ".")
	for i, p := range strings.Split(pattern, ".") {
		if p == "*" && i < len(words) {
			found = append(found, words[i])
		}
	}
	return found
}

// chassis returns the chassis that a message means: by RackHD's node id, or by
// its own id. Names and addresses, which chassis choose for themselves, do not do.
func (s *Service) chassis(ctx context.Context, ref string) (store.Chassis, error) {
	if prefix, ok := rackhd.ChassisPrefix(ref); ok {
		c, err := s.c.Store.FindChassis(ctx, prefix)
		if err == nil && rackhd.NodeID(c.ID) == strings.ToLower(ref) {
			return c, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return c, err
		}
		return store.Chassis{}, fmt.Errorf("node %s: %w", ref, store.ErrNotFound)
	}
	id, err := uuid.Parse(ref)
	if err != nil || len(ref) != 36 {
		return store.Chassis{}, badRequest("node %.80q: want 24 hexadecimal digits, or the id of a chassis", ref)
	}
	return s.c.Store.Chassis(ctx, id.String())
}

// exact reports an error unless id is a whole UUID. The store takes the beginning
// of an id as well, as people type it; a program that has lost the rest of one must
// not cancel what happens to begin alike.
func exact(what, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return badRequest("%s %.80q: want its id, a UUID", what, id)
	}
	return nil
}

// graph returns the graph with this id.
func (s *Service) graph(ctx context.Context, id string) (store.Graph, error) {
	if err := exact("graph", id); err != nil {
		return store.Graph{}, err
	}
	return s.c.Store.Graph(ctx, strings.ToLower(id))
}

// domains remembers the domains of graphs, for the keys that have them.
type domains struct {
	mu sync.Mutex
	of map[string]string
}

const maxDomains = 1000

// domain returns that of a graph; one that is gone counts as default.
func (s *Service) domain(ctx context.Context, graph string) (string, error) {
	s.domains.mu.Lock()
	d, ok := s.domains.of[graph]
	s.domains.mu.Unlock()
	if ok {
		return d, nil
	}
	g, err := s.c.Store.Graph(ctx, graph)
	if errors.Is(err, store.ErrNotFound) {
		return rackhd.DefaultDomain, nil
	}
	if err != nil {
		return "", err
	}
	if d = g.Domain; d == "" {
		d = rackhd.DefaultDomain
	}
	s.domains.mu.Lock()
	defer s.domains.mu.Unlock()
	if s.domains.of == nil || len(s.domains.of) >= maxDomains {
		s.domains.of = map[string]string{}
	}
	s.domains.of[graph] = d
	return d, nil
}
