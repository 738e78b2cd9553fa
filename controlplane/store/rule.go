package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Kinds of enrolment rule.
const (
	RuleAll    = "all"    // whatever is seen; no value
	RuleToken  = "token"  // what our own network boot has started; no value
	RuleSubnet = "subnet" // address within value, a CIDR
	RuleSerial = "serial" // serial number matches value, a pattern with * and ?
	RuleMAC    = "mac"    // a NIC has value, an address, or "52:54:00:*"
)

// ErrInvalid is wrapped by errors about what was asked for.
var ErrInvalid = errors.New("invalid")

// Rule approves a chassis that nobody has approved or rejected yet.
type Rule struct {
	ID      string    `json:"id,omitempty"`
	Kind    string    `json:"kind"`
	Value   string    `json:"value,omitempty"`
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"` // who made it
}

func (r Rule) String() string {
	if r.Value == "" {
		return r.Kind
	}
	return r.Kind + "=" + r.Value
}

var macRule = regexp.MustCompile(`^([0-9a-f]{2}(:[0-9a-f]{2}){5}|([0-9a-f]{2}:){1,5}\*)$`)

// ParseRule reads "all", "token", "subnet=CIDR", "serial=PATTERN" or
// "mac=ADDRESS".
func ParseRule(s string) (Rule, error) {
	kind, value, _ := strings.Cut(s, "=")
	r := Rule{Kind: strings.TrimSpace(kind), Value: strings.TrimSpace(value)}
	return r, r.check()
}

// check also brings the value into its usual form.
func (r *Rule) check() error {
	switch r.Kind {
	case RuleAll, RuleToken:
		if r.Value != "" {
			return fmt.Errorf("rule %s: takes no value: %w", r.Kind, ErrInvalid)
		}
	case RuleSubnet:
		p, err := netip.ParsePrefix(r.Value)
		if err != nil {
			return fmt.Errorf("rule subnet=%.64s: want a network such as 192.0.2.0/24: %w", r.Value, ErrInvalid)
		}
		r.Value = p.Masked().String()
	case RuleSerial:
		if _, err := path.Match(r.Value, ""); err != nil || r.Value == "" || len(r.Value) > 256 {
			return fmt.Errorf("rule serial=%.64s: want a pattern such as CN77*: %w", r.Value, ErrInvalid)
		}
	case RuleMAC:
		r.Value = strings.ReplaceAll(strings.ToLower(r.Value), "-", ":")
		if !macRule.MatchString(r.Value) {
			return fmt.Errorf("rule mac=%.64s: want 52:54:00:12:34:56 or 52:54:00:*: %w", r.Value, ErrInvalid)
		}
	default:
		return fmt.Errorf("rule %.64q: want all, token, subnet=CIDR, serial=PATTERN or mac=ADDRESS: %w", r.Kind, ErrInvalid)
	}
	return nil
}

// candidate is what rules look at.
type candidate struct {
	identity
	address string
	token   bool // its session came with a boot token
}

func (r Rule) approves(c candidate) bool {
	switch r.Kind {
	case RuleAll:
		return true
	case RuleToken:
		return c.token
	case RuleSubnet:
		p, err := netip.ParsePrefix(r.Value)
		a, e := netip.ParseAddr(c.address)
		return err == nil && e == nil && p.Contains(a.Unmap().WithZone(""))
	case RuleSerial:
		ok, err := path.Match(strings.ToLower(r.Value), strings.ToLower(c.serial))
		return err == nil && ok && c.serial != ""
	case RuleMAC:
		for _, m := range c.macs {
			if prefix, ok := strings.CutSuffix(r.Value, "*"); m == r.Value || ok && strings.HasPrefix(m, prefix) {
				return true
			}
		}
	}
	return false
}

// AddRule stores a rule and applies it to the connected chassis that wait for
// approval. A rule that is there already is returned as it is.
func (s *Store) AddRule(ctx context.Context, r Rule) (Rule, error) {
	if err := r.check(); err != nil {
		return Rule{}, err
	}
	err := s.update(ctx, func(t *tx) error {
		r.ID, r.Created = uuid.NewString(), time.UnixMilli(t.now).UTC()
		if _, err := t.Exec(`INSERT INTO enrolment_rules (id, kind, value, created, created_by) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (kind, value) DO NOTHING`, r.ID, r.Kind, r.Value, t.now, r.By); err != nil {
			return err
		}
		var created int64
		if err := t.QueryRow(`SELECT id, created, created_by FROM enrolment_rules WHERE kind = ? AND value = ?`,
			r.Kind, r.Value).Scan(&r.ID, &created, &r.By); err != nil {
			return err
		}
		r.Created = time.UnixMilli(created).UTC()
		return t.applyRule(r)
	})
	return r, err
}

// applyRule approves the connected chassis that a new rule approves.
func (t *tx) applyRule(r Rule) error {
	rows, err := t.Query(`SELECT ` + boardColumns + `, address, booted_by_token FROM chassis
		WHERE connected <> 0 AND approved IS NULL AND rejected IS NULL`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var chosen []string
	for rows.Next() {
		var b board
		var c candidate
		var err error
		if b, err = scanBoard(rows, &c.address, &c.token); err != nil {
			return err
		}
		if c.identity = b.identity; r.approves(c) {
			chosen = append(chosen, b.id)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range chosen {
		if err := t.approve(id, "rule "+r.String()); err != nil {
			return err
		}
	}
	return nil
}

// Rules returns all stored rules in the order in which they were made.
func (s *Store) Rules(ctx context.Context) ([]Rule, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT id, kind, value, created, created_by FROM enrolment_rules ORDER BY created, id`)
	if err != nil {
		return nil, fmt.Errorf("list enrolment rules: %w", err)
	}
	defer rows.Close()
	list := []Rule{}
	for rows.Next() {
		var r Rule
		var created int64
		if err := rows.Scan(&r.ID, &r.Kind, &r.Value, &created, &r.By); err != nil {
			return nil, fmt.Errorf("list enrolment rules: %w", err)
		}
		r.Created = time.UnixMilli(created).UTC()
		list = append(list, r)
	}
	return list, rows.Err()
}

// RemoveRule removes a rule. What it has approved stays approved.
func (s *Store) RemoveRule(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM enrolment_rules WHERE id = ?`, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("enrolment rule %.64q: %w", id, ErrNotFound))
		}
		return nil
	})
}
