package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Lives of boot tokens: one that nobody has shown, and one whose boot goes on.
const (
	bootTokenLife = time.Hour
	bootTokenKeep = 30 * 24 * time.Hour
)

// Bounds of tokens that nobody has shown yet: whoever is on the boot network gets as
// many as he asks for.
const (
	maxTokensOfMachine = 16      // the oldest give way
	maxUnusedTokens    = 100_000 // ditto, of all
	tidyTokens         = time.Minute
	tidyTokensAfter    = 10_000 // tokens, if that is earlier
)

// maxDecisions is how many decisions are kept: more than a rule makes that approves
// all chassis that wait, or the first would be gone before the servers that hold
// the sessions have seen them. It is a variable for tests.
var maxDecisions = 100_000

// trimDecisions is after how many revisions those beyond are dropped, as that
// counts all of them. A prime: revisions come in steps.
const trimDecisions = 61

// Verdicts of decisions.
const (
	Approved  = "approved"
	Denied    = "rejected"
	Withdrawn = "withdrawn" // an approval that was bound to a boot that is over
	Forgotten = "forgotten"
	moved     = "moved" // another server has taken the session over
)

// Decision is what was decided of a chassis.
type Decision struct {
	Rev     int64
	Chassis string
	Verdict string
	By      string
	Time    time.Time
}

// Keep returns the session that stays when the chassis' session has moved to
// another server, and whether it has.
func (d Decision) Keep() (session string, ok bool) { return d.By, d.Verdict == moved }

func lower(s string) string { return strings.ToLower(s) }

// MayWork returns an error that wraps ErrConflict and says what to do if the
// chassis is not approved.
func (c Chassis) MayWork() error {
	switch {
	case c.Rejected != nil:
		return fmt.Errorf("chassis %s was rejected: approve it first: %w", c.ID, ErrConflict)
	case c.Approved == nil:
		return fmt.Errorf("chassis %s is not approved: approve it first: %w", c.ID, ErrConflict)
	}
	return nil
}

// IssueBootToken returns a secret with which the machine that is booting may
// introduce itself, within the hour and once: the boot that shows it first may go
// on to show it until it has a certificate. Only the machine with that SMBIOS UUID
// (in either byte order; "" if it has none) and that MAC address may.
func (s *Store) IssueBootToken(ctx context.Context, uuid, mac string) (token string, err error) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	token = base64.RawURLEncoding.EncodeToString(b[:])
	uuid, mac = lower(uuid), lower(mac)
	if trivialUUID(uuid) {
		uuid = ""
	}
	if mac == "" || trivialMAC(mac) {
		return "", fmt.Errorf("boot token: MAC address %.64q: %w", mac, ErrInvalid)
	}
	return token, s.update(ctx, func(t *tx) error {
		if err := s.tokens.tidy(t); err != nil {
			return err
		}
		if _, err := t.Exec(`DELETE FROM boot_tokens WHERE mac = ? AND used IS NULL AND created <= (SELECT created FROM boot_tokens
			WHERE mac = ? AND used IS NULL ORDER BY created DESC LIMIT 1 OFFSET ?)`, mac, mac, maxTokensOfMachine-1); err != nil {
			return err
		}
		_, err := t.Exec(`INSERT INTO boot_tokens (token_sha256, uuid, mac, created) VALUES (?, ?, ?, ?)`, tokenDigest(token), uuid, mac, t.now)
		return err
	})
}

// tokenTidier drops tokens that are good for nothing. That looks at all of them,
// so it is not done with each. Only the writer's goroutine uses it.
type tokenTidier struct {
	at     int64 // when it was done last, Unix milliseconds
	issued int   // since
}

func (k *tokenTidier) tidy(t *tx) error {
	k.issued++
	if since := t.now - k.at; since >= 0 && since < tidyTokens.Milliseconds() && k.issued < tidyTokensAfter {
		return nil
	}
	k.at, k.issued = t.now, 0
	if _, err := t.Exec(`DELETE FROM boot_tokens WHERE used IS NULL AND created < ? OR spent < ? OR created < ?`,
		t.now-bootTokenLife.Milliseconds(), t.now-bootTokenLife.Milliseconds(), t.now-bootTokenKeep.Milliseconds()); err != nil {
		return err
	}
	_, err := t.Exec(`DELETE FROM boot_tokens WHERE used IS NULL AND created <= (
		SELECT created FROM boot_tokens WHERE used IS NULL ORDER BY created DESC LIMIT 1 OFFSET ?)`, maxUnusedTokens)
	return err
}

// redeem binds a boot token to the chassis and boot that show it first, and
// refuses it to all others.
func (t *tx) redeem(token, chassis string, self identity, bootID string) error {
	var uuid, mac, owner, boot string
	var created int64
	var spent sql.NullInt64
	err := t.QueryRow(`SELECT uuid, mac, created, chassis, boot_id, spent FROM boot_tokens WHERE token_sha256 = ?`,
		tokenDigest(token)).Scan(&uuid, &mac, &created, &owner, &boot, &spent)
	refuse := func(why string) error {
		return fmt.Errorf("enrolment token %w: %s; reboot the machine over the network to get a new one", ErrRefused, why)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return refuse("not known here")
	case err != nil:
		return err
	case spent.Valid && spent.Int64 <= t.now:
		return refuse("used up, as its machine has a certificate since")
	case owner != "" && (owner != chassis || boot != bootID):
		return refuse("it was shown by another machine or boot before")
	case owner != "":
		return nil
	case t.now-created > bootTokenLife.Milliseconds():
		return refuse("expired")
	case bootID == "":
		return refuse("it needs a boot_id")
	case uuid != "" && uuid != self.uuid && swappedUUID(uuid) != self.uuid, !slices.Contains(self.macs, mac):
		return refuse("it was given to another machine")
	}
	_, err = t.Exec(`UPDATE boot_tokens SET chassis = ?, boot_id = ?, used = ? WHERE token_sha256 = ?`, chassis, bootID, t.now, tokenDigest(token))
	return err
}

func (t *tx) rules() ([]Rule, error) {
	rows, err := t.Query(`SELECT id, kind, value FROM enrolment_rules ORDER BY created, id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Rule
	for rows.Next() {
		var r Rule
		if err := rows.Scan(&r.ID, &r.Kind, &r.Value); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// event adds a log message of the control plane's own to the transaction.
func (t *tx) event(chassis, message string) error {
	_, err := t.Exec(`INSERT INTO events (rev, chassis, time, message) VALUES (?, ?, ?, ?)`, t.nextRev(), chassis, t.now, message)
	return err
}

// decide records a verdict.
func (t *tx) decide(chassis, verdict, by string) error {
	rev := t.nextRev()
	if _, err := t.Exec(`INSERT INTO decisions (rev, chassis, verdict, decided_by, time) VALUES (?, ?, ?, ?, ?)`,
		rev, chassis, verdict, by, t.now); err != nil || rev%trimDecisions != 0 {
		return err
	}
	_, err := t.Exec(`DELETE FROM decisions WHERE rev <= (SELECT rev FROM decisions ORDER BY rev DESC LIMIT 1 OFFSET ?)`, maxDecisions)
	return err
}

func (t *tx) approve(chassis, by string) error {
	if _, err := t.Exec(`UPDATE chassis SET approved = ?, approved_by = ?, rejected = NULL, rev = ? WHERE id = ?`,
		t.now, by, t.nextRev(), chassis); err != nil {
		return err
	}
	return errors.Join(t.decide(chassis, Approved, by), t.notice(NoticeApproved, chassis, chassis, nil))
}

// withdraw takes an approval back. Certificates and tokens are worth nothing then.
func (t *tx) withdraw(chassis string) error {
	_, err := t.Exec(`UPDATE chassis SET approved = NULL, approved_by = '', certificate_boot = '', rev = ? WHERE id = ?`, t.nextRev(), chassis)
	return errors.Join(err, t.decide(chassis, Withdrawn, ""))
}

// verdict returns when a chassis was approved and rejected.
func (t *tx) verdict(chassis string) (approved, rejected sql.NullInt64, err error) {
	err = t.QueryRow(`SELECT approved, rejected FROM chassis WHERE id = ?`, chassis).Scan(&approved, &rejected)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("chassis %q: %w", chassis, ErrNotFound)
	}
	return approved, rejected, err
}

// Approve lets a chassis work from now on; by says who decided so. It changes
// nothing if it is approved already.
func (s *Store) Approve(ctx context.Context, chassis, by string) error {
	return s.update(ctx, func(t *tx) error {
		approved, _, err := t.verdict(chassis)
		if err != nil || approved.Valid {
			return err
		}
		return errors.Join(t.event(chassis, "control plane: approved by "+by), t.approve(chassis, by))
	})
}

// Reject refuses a chassis until it is approved: its session ends, certificates and
// tokens it has are worth nothing any more. What it was doing is not undone.
func (s *Store) Reject(ctx context.Context, chassis, by string) error {
	return s.update(ctx, func(t *tx) error {
		_, rejected, err := t.verdict(chassis)
		if err != nil || rejected.Valid {
			return err
		}
		if _, err := t.Exec(`UPDATE chassis SET approved = NULL, approved_by = '', rejected = ?, certificate_boot = '', rev = ? WHERE id = ?`,
			t.now, t.nextRev(), chassis); err != nil {
			return err
		}
		if _, err := t.Exec(`DELETE FROM boot_tokens WHERE chassis = ?`, chassis); err != nil {
			return err
		}
		return errors.Join(t.event(chassis, "control plane: rejected by "+by), t.decide(chassis, Denied, by))
	})
}

// Forget deletes a chassis with all that is kept of it. It fails with ErrConflict
// while the chassis is connected or has work to finish, unless it is forced.
func (s *Store) Forget(ctx context.Context, chassis, by string, force bool) error {
	return s.update(ctx, func(t *tx) error {
		var connected bool
		var open int
		err := t.QueryRow(`SELECT connected, (SELECT COUNT(*) FROM tasks WHERE chassis = c.id AND finished IS NULL)
			FROM chassis c WHERE id = ?`, chassis).Scan(&connected, &open)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("chassis %q: %w", chassis, ErrNotFound)
		case err != nil:
			return err
		case connected && !force:
			return fmt.Errorf("chassis %s is connected: turn it off, or force it: %w", chassis, ErrConflict)
		case open > 0 && !force:
			return fmt.Errorf("chassis %s has %d tasks to finish: cancel them, or force it: %w", chassis, open, ErrConflict)
		}
		if err := t.abandon(chassis); err != nil {
			return err
		}
		for _, what := range []string{
			`phone_home WHERE chassis = ?`, `events WHERE chassis = ?`, `boot_tokens WHERE chassis = ?`,
			`alerts WHERE chassis = ?`, `catalogs WHERE chassis = ?`,
			`phone_home WHERE task IN (SELECT id FROM tasks WHERE graph IN (SELECT id FROM graphs WHERE chassis = ?))`,
			`tasks WHERE graph IN (SELECT id FROM graphs WHERE chassis = ?)`, `tasks WHERE chassis = ?`, `graphs WHERE chassis = ?`,
		} {
			if _, err := t.Exec(`DELETE FROM `+what, chassis); err != nil {
				return fmt.Errorf("forget chassis %s: %s: %w", chassis, what, err)
			}
		}
		if _, err := t.Exec(`DELETE FROM chassis WHERE id = ?`, chassis); err != nil {
			return fmt.Errorf("forget chassis %s: %w", chassis, err)
		}
		return errors.Join(t.decide(chassis, Forgotten, by), t.notice(NoticeRemoved, chassis, chassis, nil))
	})
}

// MayConnect reports whether a chassis is approved. Its error wraps ErrRefused if
// it is not even to be connected.
func (s *Store) MayConnect(ctx context.Context, chassis string) (approved bool, err error) {
	var a, r sql.NullInt64
	err = s.r.QueryRowContext(ctx, `SELECT approved, rejected FROM chassis WHERE id = ?`, chassis).Scan(&a, &r)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		err = fmt.Errorf("%w: chassis %s was forgotten", ErrRefused, chassis)
	case err == nil && r.Valid:
		err = fmt.Errorf("%w: chassis %s was rejected", ErrRefused, chassis)
	}
	return a.Valid, err
}

// CertificateIssued records that a boot of an approved chassis is being given a
// client certificate, which is good as long as the approval.
func (s *Store) CertificateIssued(ctx context.Context, chassis, bootID string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE chassis SET certificate_boot = ?, rev = ? WHERE id = ? AND approved IS NOT NULL AND boot_id = ?`,
			bootID, t.nextRev(), chassis, bootID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("chassis %s is not approved: %w", chassis, ErrConflict))
		}
		return nil
	})
}

// CertificateSent ends the life of the tokens that the boot may still have an hour
// from now: should the certificate have been lost on the way, it has time to come
// again.
func (s *Store) CertificateSent(ctx context.Context, chassis, bootID string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE boot_tokens SET spent = ? WHERE chassis = ? AND boot_id = ? AND spent IS NULL`,
			t.now+bootTokenLife.Milliseconds(), chassis, bootID)
		return err
	})
}

// Decisions returns up to limit decisions newer than revision after, oldest first.
func (s *Store) Decisions(ctx context.Context, after int64, limit int) ([]Decision, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT rev, chassis, verdict, decided_by, time FROM decisions WHERE rev > ? ORDER BY rev LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list decisions: %w", err)
	}
	defer rows.Close()
	var list []Decision
	for rows.Next() {
		var d Decision
		var ms int64
		if err := rows.Scan(&d.Rev, &d.Chassis, &d.Verdict, &d.By, &ms); err != nil {
			return nil, fmt.Errorf("list decisions: %w", err)
		}
		d.Time = time.UnixMilli(ms).UTC()
		list = append(list, d)
	}
	return list, rows.Err()
}
