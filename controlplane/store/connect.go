package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// ErrRefused is wrapped by errors of Connect about a session that is not let in.
var ErrRefused = errors.New("refused")

// Session is what the gateway knows when an agent has introduced itself. The
// handshake must have been checked: lengths bounded, addresses in lower case.
type Session struct {
	ID        string // differs for every connection
	Handshake teeth.Handshake
	Address   string // of the chassis, without port
	Endpoint  string // host under which it reaches this server

	Secure      bool   // over TLS
	Certificate string // id of the chassis whose verified client certificate it showed, or ""
	BootToken   string // one-time token that it showed, or ""
	Rules       []Rule // that apply beside the stored ones
	TakeOver    bool   // although HeldError was returned: the other session is dead
}

// HeldError refuses a session of a chassis that has another one on this server,
// from a boot with a certificate, while this is another boot and has none. It is
// either the same chassis after a reset or somebody who claims to be it; whether
// the other session still answers tells.
type HeldError struct{ Chassis string }

func (e *HeldError) Error() string {
	return fmt.Sprintf("refused: chassis %s is connected, with its certificate, and answers", e.Chassis)
}
func (e *HeldError) Unwrap() error { return ErrRefused }

// board is a stored chassis as Connect compares it.
type board struct {
	identity
	id        string
	bootID    string // of its newest session
	connected bool
	server    string // that has the session
	approved  sql.NullInt64
	rejected  sql.NullInt64
	verified  bool
	certBoot  string // boot that holds its certificate
}

const boardColumns = `id, uuid, serial, mac, macs, boot_id, connected, server, approved, rejected, verified, certificate_boot`

func scanBoard(row scanner, more ...any) (board, error) {
	var b board
	var h teeth.Handshake
	var macs string
	if err := row.Scan(append([]any{&b.id, &h.UUID, &h.Serial, &h.ID, &macs, &b.bootID, &b.connected, &b.server,
		&b.approved, &b.rejected, &b.verified, &b.certBoot}, more...)...); err != nil {
		return board{}, err
	}
	if err := json.Unmarshal([]byte(macs), &h.MACs); err != nil {
		return board{}, fmt.Errorf("chassis %s: MAC addresses: %w", b.id, err)
	}
	b.identity = identityOf(h)
	return b, nil
}

// Connect records a new session and returns the chassis it belongs to, without
// Inventory and Phases. One that was never seen before is created, and approved
// if a rule does so. Errors that wrap ErrRefused say why a session is not let in.
//
// A session with a certificate belongs to the chassis that the certificate names,
// and to no other. One without belongs to the chassis that describes itself alike
// (see identity.same).
func (s *Store) Connect(ctx context.Context, in Session) (Chassis, error) {
	e, err := s.Enter(ctx, in)
	if err != nil {
		return Chassis{}, err
	}
	found, err := s.chassisWhere(ctx, `c.id = ?`, false, e.Chassis)
	if err != nil {
		return Chassis{}, err
	}
	if len(found) == 0 {
		return Chassis{}, fmt.Errorf("%w: chassis %s: forgotten meanwhile", ErrRefused, e.Chassis)
	}
	found[0].Notes = e.Notes
	return found[0], nil
}

// Entry is what came of a session that was let in.
type Entry struct {
	Chassis  string
	Approved bool
	// Inspected: what the chassis is made of is known from this same boot.
	Inspected bool
	Notes     []string // what an operator should know of it
}

// Enter is Connect for thousands of sessions: it reads nothing that they do not need.
func (s *Store) Enter(ctx context.Context, in Session) (e Entry, err error) {
	err = s.update(ctx, func(t *tx) error {
		e = Entry{}
		e.Chassis, e.Notes, err = t.connect(in, s.server)
		if err != nil {
			return err
		}
		return t.QueryRow(`SELECT CASE WHEN approved IS NULL THEN 0 ELSE 1 END, CASE WHEN boot_id <> '' AND inspected_boot = boot_id THEN 1 ELSE 0 END
			FROM chassis WHERE id = ?`, e.Chassis).Scan(&e.Approved, &e.Inspected)
	})
	return e, err
}

func (t *tx) connect(in Session, server string) (id string, notes []string, err error) {
	self := identityOf(in.Handshake)
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	var b board
	if in.Certificate != "" {
		b, err = t.certified(in, self)
	} else {
		b, err = t.recognise(self, note)
	}
	if err != nil {
		return "", nil, err
	}
	created := b.id == ""
	if created {
		b.id = uuid.NewString()
	}
	if err := b.admits(in); err != nil {
		return "", nil, err
	}
	if in.BootToken != "" {
		if err := t.redeem(in.BootToken, b.id, self, in.Handshake.BootID); err != nil {
			return "", nil, err
		}
	}
	// After the token: who has none that counts must not make us ask another
	// session whether it is alive.
	if err := t.held(b, in, server); err != nil {
		return "", nil, err
	}
	macs := in.Handshake.MACs
	if macs == nil {
		macs = []string{}
	}
	list, err := json.Marshal(macs)
	if err != nil {
		return "", nil, err
	}
	h := in.Handshake
	if created {
		if err := t.room(); err != nil {
			return "", nil, err
		}
		key := self.key()
		var taken int
		if err := t.QueryRow(`SELECT COUNT(*) FROM chassis WHERE identity = ?`, key).Scan(&taken); err != nil {
			return "", nil, err
		}
		if taken > 0 || key == "" { // of a board that now calls itself otherwise
			key += " id:" + b.id
		}
		if _, err := t.Exec(`INSERT INTO chassis (id, identity, last_seen, created, rev) VALUES (?, ?, ?, ?, ?)`,
			b.id, key, t.now, t.now, t.nextRev()); err != nil {
			return "", nil, fmt.Errorf("chassis %s: %w", key, err)
		}
	}
	if _, err := t.Exec(`UPDATE chassis SET uuid = ?, serial = ?, mac = ?, macs = ?, version = ?, boot_id = ?, session = ?,
			connected = 1, server = ?, address = ?, endpoint = ?, last_seen = ?, verified = CASE WHEN ? <> 0 THEN 1 ELSE verified END,
			booted_by_token = CASE WHEN ? <> 0 THEN booted_by_token WHEN ? <> 0 THEN 1 ELSE 0 END, rev = ? WHERE id = ?`,
		h.UUID, h.Serial, h.ID, string(list), h.Version, h.BootID, in.ID,
		server, in.Address, in.Endpoint, t.now, in.Secure,
		in.Certificate != "", in.BootToken != "", t.nextRev(), b.id); err != nil {
		return "", nil, fmt.Errorf("chassis %s: %w", b.id, err)
	}
	if err := t.saveMACs(b, self); err != nil {
		return "", nil, err
	}
	if created {
		if err := t.notice(NoticeDiscovered, b.id, b.id, nil); err != nil {
			return "", nil, err
		}
	}
	if b.connected && b.server != "" && b.server != server {
		// The other server is to end the session that this one replaces.
		if err := t.decide(b.id, moved, in.ID); err != nil {
			return "", nil, err
		}
	}
	if err := t.approval(b, self, in, note); err != nil {
		return "", nil, err
	}
	for _, n := range notes {
		if err := t.event(b.id, "control plane: "+n); err != nil {
			return "", nil, err
		}
	}
	return b.id, notes, t.notice(NoticeConnected, b.id, b.id, nil)
}

// certified returns the chassis that a certificate names, if it still stands.
func (t *tx) certified(in Session, self identity) (board, error) {
	b, err := scanBoard(t.QueryRow(`SELECT `+boardColumns+` FROM chassis WHERE id = ?`, in.Certificate))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return b, fmt.Errorf("%w: certificate of chassis %s, which was forgotten", ErrRefused, in.Certificate)
	case err != nil:
		return b, err
	case !b.approved.Valid || b.certBoot == "":
		return b, fmt.Errorf("%w: certificate of chassis %s, which is not approved any more: approve it and reboot it", ErrRefused, b.id)
	case b.certBoot != in.Handshake.BootID:
		return b, fmt.Errorf("%w: certificate of chassis %s from another boot", ErrRefused, b.id)
	case !b.same(self) || b.uuid != self.uuid:
		return b, fmt.Errorf("%w: certificate of chassis %s, shown by another board", ErrRefused, b.id)
	}
	// It has arrived, so the token it was got with is not needed any more.
	_, err = t.Exec(`UPDATE boot_tokens SET spent = ? WHERE chassis = ? AND boot_id = ? AND (spent IS NULL OR spent > ?)`,
		t.now, b.id, b.certBoot, t.now)
	return b, err
}

// recognise returns the stored chassis that describes itself as self does, or an
// empty one. Of several, which there are after a board was given another's serial
// number, it takes that with the same serial number, then the newest.
func (t *tx) recognise(self identity, note func(string, ...any)) (board, error) {
	where, args := `uuid = ?`, []any{self.uuid}
	if self.uuid == "" {
		if len(self.macs) == 0 {
			return board{}, nil
		}
		// See identity.same: such a one shares a MAC address.
		where, args = byMACs(len(self.macs)), nil
		for _, m := range self.macs {
			args = append(args, m)
		}
	}
	rows, err := t.Query(`SELECT `+boardColumns+` FROM chassis WHERE `+where+` ORDER BY last_seen DESC, id`, args...)
	if err != nil {
		return board{}, err
	}
	defer rows.Close()
	var best board
	var twins []string
	for rows.Next() {
		b, err := scanBoard(rows)
		if err != nil {
			return board{}, err
		}
		switch {
		case !b.same(self):
			if self.uuid != "" {
				twins = append(twins, b.id)
			}
		case best.id == "" || lower(b.serial) == lower(self.serial) && lower(best.serial) != lower(self.serial):
			best = b
		}
	}
	if err := rows.Err(); err != nil {
		return board{}, err
	}
	switch {
	case best.id == "" && len(twins) > 0:
		note("SMBIOS UUID %s is also that of chassis %s, which has another serial number: two boards", self.uuid, twins[0])
	case best.id != "" && lower(best.serial) != lower(self.serial):
		note("its serial number was %q and is now %q", best.serial, self.serial)
	}
	return best, nil
}

// maxWaiting is how many chassis may wait for approval. Whoever is on the boot
// network can invent as many as he likes. It is a variable for tests.
var maxWaiting = 20_000

// room refuses a chassis that was never seen before while too many wait.
func (t *tx) room() error {
	var waiting int
	if err := t.QueryRow(`SELECT COUNT(*) FROM chassis WHERE approved IS NULL`).Scan(&waiting); err != nil {
		return err
	}
	if waiting >= maxWaiting {
		return fmt.Errorf("%w: %d chassis wait for approval or are rejected, and no more are taken: approve or forget some", ErrRefused, waiting)
	}
	return nil
}

// admits refuses sessions that are never to touch a stored chassis.
func (b board) admits(in Session) error {
	switch {
	case b.rejected.Valid:
		return fmt.Errorf("%w: chassis %s was rejected: approve it to let it in", ErrRefused, b.id)
	case b.verified && !in.Secure:
		return fmt.Errorf("%w: chassis %s has connected over TLS before, and this session is in the clear", ErrRefused, b.id)
	}
	return nil
}

// held refuses sessions of a chassis that has another one, which may be alive.
func (t *tx) held(b board, in Session, server string) error {
	switch {
	case in.Certificate != "" || !b.connected || b.certBoot == "" || b.certBoot != b.bootID || in.Handshake.BootID == b.bootID ||
		b.server == "" || in.TakeOver:
		return nil
	case b.server == server:
		return &HeldError{b.id}
	}
	alive, err := t.alive(b.server)
	if err == nil && alive {
		err = fmt.Errorf("%w: chassis %s has a session with its certificate on another server; if it was rebooted, that one ends within a minute", ErrRefused, b.id)
	}
	return err
}

// approval lets rules approve a chassis, and takes back an approval that does not
// reach as far as this session.
func (t *tx) approval(b board, self identity, in Session, note func(string, ...any)) error {
	if b.approved.Valid && self.weak() && in.Secure && in.Certificate == "" && (b.bootID != in.Handshake.BootID || b.bootID == "") {
		// Anybody on its network can claim a MAC address.
		note("it has neither UUID nor serial number to be known by, so it needs approval after every boot")
		if err := t.withdraw(b.id); err != nil {
			return err
		}
		b.approved.Valid = false
	}
	if b.approved.Valid {
		return nil
	}
	stored, err := t.rules()
	if err != nil {
		return err
	}
	c := candidate{identity: self, address: in.Address, token: in.BootToken != ""}
	for _, r := range append(stored, in.Rules...) {
		if r.approves(c) {
			return t.approve(b.id, "rule "+r.String())
		}
	}
	return nil
}

// Disconnect records that a session has ended. It does nothing when a newer one
// has taken its place.
func (s *Store) Disconnect(ctx context.Context, chassis, session string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE chassis SET connected = 0, session = '', server = '', last_seen = ?, rev = ? WHERE id = ? AND session = ?`,
			t.now, t.nextRev(), chassis, session)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return t.notice(NoticeDisconnected, chassis, chassis, nil)
	})
}

// SaveStatus records what a chassis says of itself. Parts that are absent keep
// what is known. Of an inventory it is kept which boot it is from.
func (s *Store) SaveStatus(ctx context.Context, chassis string, st teeth.Status) error {
	var inventory, phases sql.NullString
	if len(st.Inventory) > 0 && string(st.Inventory) != "null" {
		inventory = sql.NullString{String: string(st.Inventory), Valid: true}
	}
	if len(st.Phases) > 0 {
		b, err := json.Marshal(st.Phases)
		if err != nil {
			return fmt.Errorf("chassis %s: boot phases: %w", chassis, err)
		}
		phases = sql.NullString{String: string(b), Valid: true}
	}
	return s.update(ctx, func(t *tx) error {
		inspected := sql.NullInt64{Int64: t.now, Valid: inventory.Valid}
		res, err := t.Exec(`UPDATE chassis SET inspected = COALESCE(?, inspected),
			inspected_boot = CASE WHEN CAST(? AS INTEGER) <> 0 THEN CAST(? AS TEXT) ELSE inspected_boot END,
			last_seen = ?, rev = ? WHERE id = ?`, inspected, inventory.Valid, st.BootID, t.now, t.nextRev(), chassis)
		if err != nil || !inventory.Valid && !phases.Valid {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 { // forgotten meanwhile
			return err
		}
		if _, err := t.Exec(`INSERT INTO inventories (chassis, inventory, phases) VALUES (?, ?, ?)
			ON CONFLICT (chassis) DO UPDATE SET inventory = COALESCE(excluded.inventory, inventories.inventory),
				phases = COALESCE(excluded.phases, inventories.phases)`, chassis, inventory, phases); err != nil || !inventory.Valid {
			return err
		}
		return t.notice(NoticeInspected, chassis, chassis, nil)
	})
}
