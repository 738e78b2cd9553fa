package sku

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
)

// Spec describes a SKU.
type Spec struct {
	Name  string `json:"name"`
	Rules []Rule `json:"rules"`
	// Graph is the injectable name of a graph that is run once for each chassis that
	// the SKU is assigned to, with Options.
	Graph   string         `json:"graph,omitempty"`
	Options map[string]any `json:"options,omitempty"`
}

// Engine runs graphs; *workflow.Engine is one.
type Engine interface {
	RunGraph(ctx context.Context, r workflow.Request) (store.Graph, error)
	Library(ctx context.Context) (workflow.Library, error)
}

// Config of a Service.
type Config struct {
	Store  *store.Store
	Engine Engine
	Log    *slog.Logger
}

// Service assigns SKUs.
type Service struct{ Config }

// New returns a Service that assigns SKUs once it is Run.
func New(c Config) *Service { return &Service{c} }

const (
	leader = "skus"
	leads  = 15 * time.Second
	batch  = 100
	// author is whom the log names for the graphs of SKUs.
	author = "sku"
)

// Variables for tests: how often it is looked for work, and the wait for a chassis
// that is busy.
var (
	look  = 2 * time.Second
	later = 30 * time.Second
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,127}$`)

// Put defines a SKU, in the place of the one with that name.
func (s *Service) Put(ctx context.Context, spec Spec) (store.SKU, error) {
	if !nameForm.MatchString(spec.Name) {
		return store.SKU{}, fmt.Errorf("SKU name %.140q: write 1 to 128 letters, digits, spaces and . _ + -: %w", spec.Name, ErrInvalid)
	}
	if _, err := Compile(spec.Rules); err != nil {
		return store.SKU{}, err
	}
	if spec.Graph == "" && len(spec.Options) > 0 {
		return store.SKU{}, fmt.Errorf("options are of a graph: name it: %w", ErrInvalid)
	}
	if spec.Graph != "" {
		lib, err := s.Engine.Library(ctx)
		if err != nil {
			return store.SKU{}, err
		}
		if _, err := lib.Graph(spec.Graph); err != nil {
			return store.SKU{}, fmt.Errorf("graph of SKU %q: %w: %w", spec.Name, err, ErrInvalid)
		}
	}
	rules, err := json.Marshal(spec.Rules)
	if err != nil {
		return store.SKU{}, fmt.Errorf("rules: %w: %w", err, ErrInvalid)
	}
	k := store.SKU{Name: spec.Name, Rules: rules, Graph: spec.Graph}
	if len(spec.Options) > 0 {
		if k.Options, err = json.Marshal(spec.Options); err != nil {
			return store.SKU{}, fmt.Errorf("options: %w: %w", err, ErrInvalid)
		}
	}
	return s.Store.PutSKU(ctx, k)
}

// Run assigns SKUs to approved chassis whose inventory is new, and starts the
// graphs, until ctx ends. One server of the estate does it.
func (s *Service) Run(ctx context.Context) error {
	seen := int64(-1)
	for {
		rev, changed := s.Store.Revision()
		lead, err := s.Store.Lead(ctx, leader, leads)
		if err == nil && lead {
			if rev != seen {
				err = s.assign(ctx)
			}
			if err == nil {
				seen = rev
				err = s.start(ctx)
			}
		} else {
			seen = -1
		}
		if err != nil && ctx.Err() == nil {
			s.Log.Error("SKUs cannot be assigned", "error", err)
		}
		select {
		case <-time.After(look): // a leader is one only as long as it says so
		case <-ctx.Done():
			return nil
		}
		if rev == seen {
			select {
			case <-changed:
			case <-time.After(5 * look):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// kind is a SKU, compiled.
type kind struct {
	id    string
	name  string
	rules Rules
}

// kinds returns all SKUs, the most particular, which is that with most rules,
// first; of equals that whose name comes first.
func (s *Service) kinds(ctx context.Context) ([]kind, error) {
	all, err := s.Store.ListSKUs(ctx, "", store.MaxPage)
	if err != nil {
		return nil, err
	}
	var list []kind
	for _, k := range all {
		var rules []Rule
		err := json.Unmarshal(k.Rules, &rules)
		var compiled Rules
		if err == nil {
			compiled, err = Compile(rules)
		}
		if err != nil {
			s.Log.Error("a SKU is passed over: its rules cannot be read", "sku", k.Name, "error", err)
			continue
		}
		list = append(list, kind{k.ID, k.Name, compiled})
	}
	slices.SortStableFunc(list, func(a, b kind) int {
		return cmp.Or(cmp.Compare(len(b.rules), len(a.rules)), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

func (s *Service) assign(ctx context.Context) error {
	for {
		list, version, err := s.Store.SKUsToAssign(ctx, batch)
		if err != nil || len(list) == 0 {
			return err
		}
		kinds, err := s.kinds(ctx)
		if err != nil {
			return err
		}
		for _, c := range list {
			var inventory any
			if err := json.Unmarshal(c.Inventory, &inventory); err != nil {
				s.Log.Warn("an inventory cannot be read", "chassis", c.Chassis, "error", err)
			}
			id, name := "", ""
			if i := slices.IndexFunc(kinds, func(k kind) bool { return k.rules.Match(inventory) }); i >= 0 {
				id, name = kinds[i].id, kinds[i].name
			}
			if err := s.Store.AssignSKU(ctx, c, version, id); err != nil {
				return err
			}
			s.Log.Debug("SKU found", "chassis", c.Chassis, "sku", name)
		}
	}
}

// start starts the graphs of assigned SKUs. One that was being started when a
// server stopped is looked for first, so that it runs once.
func (s *Service) start(ctx context.Context) error {
	list, err := s.Store.SKUGraphsToStart(ctx, batch)
	if err != nil {
		return err
	}
	for _, a := range list {
		k, err := s.Store.SKU(ctx, a.SKU)
		if errors.Is(err, store.ErrNotFound) {
			continue // removed: the chassis is about to be looked at anew
		} else if err != nil {
			return err
		}
		if a.Step == store.SKUGraphStarting {
			if a.Graph, err = s.Store.SKUGraphOf(ctx, a, k.Graph, author); err != nil {
				return err
			}
		}
		delay := time.Duration(0)
		if a.Graph == "" {
			a.Step = store.SKUGraphStarting
			if err := s.Store.SetSKUGraph(ctx, a, later); err != nil {
				return err
			}
			var options map[string]any
			g, err := store.Graph{}, json.Unmarshal(k.Options, &options)
			if err == nil {
				g, err = s.Engine.RunGraph(ctx, workflow.Request{Graph: k.Graph, Chassis: a.Chassis, Options: options, By: author})
			}
			if err != nil {
				a.Step, a.Error = store.SKUGraphFailed, err.Error()
				if errors.Is(err, store.ErrConflict) || ctx.Err() != nil { // it has another graph to finish
					a.Step, delay = store.SKUGraphWaiting, later
				}
				s.Log.Warn("graph of a SKU is not started", "sku", k.Name, "graph", k.Graph, "chassis", a.Chassis, "error", err)
			}
			a.Graph = g.ID
		}
		if a.Graph != "" {
			a.Step, a.Error = store.SKUGraphStarted, ""
		}
		if err := s.Store.SetSKUGraph(context.WithoutCancel(ctx), a, delay); err != nil {
			return err
		}
	}
	return nil
}
