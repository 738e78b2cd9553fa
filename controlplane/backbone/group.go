package backbone

import (
	"context"
	"sync"
)

// group is parts that run until their context ends.
type group struct {
	ctx   context.Context
	parts sync.WaitGroup
}

func newGroup(ctx context.Context) *group { return &group{ctx: ctx} }

func (g *group) run(part func(context.Context)) { g.parts.Go(func() { part(g.ctx) }) }

func (g *group) wait() error {
	g.parts.Wait()
	return nil
}
