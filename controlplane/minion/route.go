package minion

import (
	"fmt"
	"strings"
)

// rule says where log lines of a service go.
type rule struct {
	to   *queue
	cull bool
}

// group is a group of agents at work.
type group struct {
	id       string
	key      string // "" of ChassisGroup
	services map[string]rule
	fallback rule // to is nil if there is none
	labels   map[string]*queue
	others   *queue // telemetry of other labels
}

func (g *group) service(name string) rule {
	if r, ok := g.services[name]; ok {
		return r
	}
	return g.fallback
}

func (g *group) label(name string) *queue {
	if q, ok := g.labels[name]; ok {
		return q
	}
	return g.others
}

// openGroups makes the groups and the queues of their destinations.
func (s *Server) openGroups(configs []GroupConfig) error {
	s.groups = map[string]*group{}
	for _, c := range configs {
		if (c.ID == ChassisGroup) != (c.Key == "") {
			return fmt.Errorf("group %s: every group has a key but %q, whose chassis have one each", c.ID, ChassisGroup)
		}
		g := &group{id: c.ID, key: c.Key, services: map[string]rule{}, labels: map[string]*queue{}}
		for _, service := range c.Services {
			to, err := s.destination(service.To)
			if err != nil {
				return fmt.Errorf("group %s: services %q: %w", c.ID, service.Names, err)
			}
			r := rule{to: to, cull: service.Cull}
			for _, name := range service.Names {
				if _, twice := g.services[name]; twice {
					return fmt.Errorf("group %s: service %q is there twice", c.ID, name)
				}
				g.services[name] = r
			}
			if service.Default {
				if g.fallback.to != nil {
					return fmt.Errorf("group %s has two default services", c.ID)
				}
				g.fallback = r
			}
		}
		for _, t := range c.Telemetry {
			to, err := s.destination(t.To)
			if err != nil {
				return fmt.Errorf("group %s: telemetry %q: %w", c.ID, t.Label, err)
			}
			if t.Label == "" {
				g.others = to
			} else {
				g.labels[t.Label] = to
			}
		}
		if len(c.Telemetry) == 0 {
			g.others = s.records
		}
		s.groups[c.ID] = g
	}
	g := s.groups[ChassisGroup]
	if g == nil {
		g = &group{id: ChassisGroup, others: s.records}
		s.groups[ChassisGroup] = g
	}
	// Of a chassis every line is kept, unless the configuration says otherwise.
	if len(g.services) == 0 && g.fallback.to == nil {
		g.fallback = rule{to: s.records}
	}
	return nil
}

// destination returns the queue of a destination, one for each place.
func (s *Server) destination(d Destination) (*queue, error) {
	if d.Type == typeRecords {
		if s.records == nil {
			return nil, fmt.Errorf("its destination is the records database, and there is none")
		}
		return s.records, nil
	}
	key := string(d.Type) + " " + d.Path
	if q := s.queues[key]; q != nil {
		return q, nil
	}
	q := newQueue(d.Path, string(d.Type)+":"+strings.ToValidUTF8(d.Path, "?"), s.c.QueueBytes, true)
	s.queues[key] = q
	var m medium
	switch d.Type {
	case typeFile:
		f := &file{path: d.Path}
		ids, err := tailIDs(d.Path)
		if err != nil {
			return nil, fmt.Errorf("log file: %w", err)
		}
		s.known.add(q, ids)
		m = f
	case typeIO:
		m = s.stream(d.Path)
	}
	w := &lineWriter{q: q, m: m, trouble: s.trouble, meter: &s.meter}
	s.workers = append(s.workers, w.run)
	return q, nil
}
