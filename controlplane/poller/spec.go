package poller

import (
	"context"
	"fmt"
	"slices"

	"github.com/teeth-metal/teeth/controlplane/snmp"
)

// Kinds of poller.
const (
	Power = "power"
	SEL   = "sel"
	SDR   = "sdr" // sensors
	SNMP  = "snmp"
)

// Kinds are all of them.
var Kinds = []string{Power, SEL, SDR, SNMP}

// Bounds of an interval, and what it is unless said, in seconds.
const (
	minInterval     = 5
	maxInterval     = 24 * 60 * 60
	defaultInterval = 60
)

// Spec describes a poller.
type Spec struct {
	Chassis  string  `json:"chassis,omitempty"` // id; not of SNMP devices that are no chassis
	Kind     string  `json:"kind"`
	Name     string  `json:"name,omitempty"`
	Interval float64 `json:"interval,omitempty"` // seconds, 5 to 86400; default 60
	Paused   bool    `json:"paused,omitempty"`
	Rules    []Rule  `json:"rules,omitempty"`
	SNMP     *Query  `json:"snmp,omitempty"` // of kind snmp
}

// Query is what is read of an SNMP device. Its passwords and community are sealed
// in the store and told to nobody.
type Query struct {
	snmp.Target
	Get     []string `json:"get,omitempty"`  // objects
	Walk    []string `json:"walk,omitempty"` // all objects under these
	MaxRows int      `json:"max_rows,omitempty"`
}

const (
	maxWalks    = 16
	defaultRows = 1000
	maxRows     = 5000
)

// check says whether there can be such a poller, and fills in what was left out.
func (s *Spec) check() error {
	if !slices.Contains(Kinds, s.Kind) {
		return fmt.Errorf("poller kind %.20q: write one of %v: %w", s.Kind, Kinds, ErrInvalid)
	}
	if s.Interval == 0 {
		s.Interval = defaultInterval
	}
	if !(s.Interval >= minInterval && s.Interval <= maxInterval) {
		return fmt.Errorf("interval %v: write %d to %d seconds: %w", s.Interval, minInterval, maxInterval, ErrInvalid)
	}
	if len(s.Name) > 128 || !printable(s.Name) {
		return fmt.Errorf("poller's name %.40q: write up to 128 bytes that can be printed: %w", s.Name, ErrInvalid)
	}
	if s.Kind != SNMP {
		switch {
		case s.Chassis == "":
			return fmt.Errorf("a poller of kind %s needs a chassis: %w", s.Kind, ErrInvalid)
		case s.SNMP != nil:
			return fmt.Errorf("snmp is of pollers of kind snmp: %w", ErrInvalid)
		}
	} else if err := s.SNMP.check(); err != nil {
		return err
	}
	_, err := compile(s.Kind, s.Rules)
	return err
}

func (q *Query) check() error {
	if q == nil {
		return fmt.Errorf("a poller of kind snmp needs snmp: what to read of which device: %w", ErrInvalid)
	}
	if err := q.Target.Check(); err != nil {
		return err
	}
	if len(q.Get)+len(q.Walk) == 0 || len(q.Get) > snmp.MaxOIDs || len(q.Walk) > maxWalks {
		return fmt.Errorf("snmp: write 1 to %d objects to get, or up to %d to walk: %w", snmp.MaxOIDs, maxWalks, ErrInvalid)
	}
	if q.MaxRows == 0 {
		q.MaxRows = defaultRows
	}
	if q.MaxRows < 1 || q.MaxRows > maxRows {
		return fmt.Errorf("max_rows %d: write 1 to %d: %w", q.MaxRows, maxRows, ErrInvalid)
	}
	for _, oid := range slices.Concat(q.Get, q.Walk) {
		if err := snmp.CheckOID(oid); err != nil {
			return err
		}
	}
	return nil
}

// Read reads what q says, and whether there is more of it than MaxRows.
func (q Query) Read(ctx context.Context) (rows []snmp.Row, more bool, err error) {
	if err := q.check(); err != nil {
		return nil, false, err
	}
	rows = []snmp.Row{}
	if len(q.Get) > 0 {
		if rows, err = snmp.Get(ctx, q.Target, q.Get); err != nil {
			return nil, false, err
		}
	}
	for _, root := range q.Walk {
		if len(rows) >= q.MaxRows {
			return rows, true, nil
		}
		found, cut, err := snmp.Walk(ctx, q.Target, root, q.MaxRows-len(rows))
		if err != nil {
			return nil, false, err
		}
		rows, more = append(rows, found...), more || cut
	}
	return rows, more, nil
}
