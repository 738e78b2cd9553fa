package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Role is what somebody may do. A later role of Roles may all that an earlier one may.
type Role string

// Roles.
const (
	Viewer   Role = "viewer"   // look
	Operator Role = "operator" // work with chassis, graphs, images
	Admin    Role = "admin"    // also users, backup, rules of enrolment, settings
)

// Roles are all roles, the least first.
var Roles = []Role{Viewer, Operator, Admin}

// Includes reports whether who has role r may what other may. A text that is no
// role may nothing.
func (r Role) Includes(other Role) bool {
	i, j := slices.Index(Roles, r), slices.Index(Roles, other)
	return i >= 0 && j >= 0 && i >= j
}

// User may use the REST interface.
type User struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Tokens  int       `json:"tokens"` // how many it has
	Created time.Time `json:"created"`
}

// Token is a secret by which a user's program shows who it is. The secret itself
// is kept nowhere, only its digest.
type Token struct {
	ID       string     `json:"id"` // UUID
	User     string     `json:"user"`
	Name     string     `json:"name"` // one of the user's
	Role     Role       `json:"role"` // it never may more than its user
	Created  time.Time  `json:"created"`
	Expires  *time.Time `json:"expires,omitempty"`
	LastUsed *time.Time `json:"last_used,omitempty"` // to the minute
}

// AddUser adds a user. A name that is taken is ErrConflict.
func (s *Store) AddUser(ctx context.Context, name string, role Role) (User, error) {
	var u User
	err := s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`INSERT INTO users (name, role, created) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING`, name, string(role), t.now)
		if err != nil {
			return fmt.Errorf("user %s: %w", name, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("a user named %q exists: %w", name, ErrConflict))
		}
		u = User{Name: name, Role: role, Created: time.UnixMilli(t.now).UTC()}
		return nil
	})
	return u, err
}

// SetUserRole changes what a user may. Tokens that had more may no more than the
// user from then on.
func (s *Store) SetUserRole(ctx context.Context, name string, role Role) error {
	return s.changeUser(ctx, name, `UPDATE users SET role = ? WHERE name = ?`, string(role), name)
}

// RemoveUser removes a user and its tokens.
func (s *Store) RemoveUser(ctx context.Context, name string) error {
	return s.changeUser(ctx, name, `DELETE FROM users WHERE name = ?`, name)
}

func (s *Store) changeUser(ctx context.Context, name, query string, args ...any) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(query, args...)
		if err != nil {
			return fmt.Errorf("user %s: %w", name, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("user %.64q: %w", name, ErrNotFound))
		}
		return nil
	})
}

// ListUsers returns up to limit users whose name comes after the given one, by name.
func (s *Store) ListUsers(ctx context.Context, after string, limit int) ([]User, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT name, role, created, (SELECT COUNT(*) FROM user_tokens WHERE user_name = users.name)
		FROM users WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer rows.Close()
	list := []User{}
	for rows.Next() {
		var u User
		var created int64
		if err := rows.Scan(&u.Name, &u.Role, &created, &u.Tokens); err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		u.Created = time.UnixMilli(created).UTC()
		list = append(list, u)
	}
	return list, rows.Err()
}

// maxTokens bounds the tokens of one user.
const maxTokens = 100

// AddToken adds a token to a user, who must have at least its role (ErrConflict
// otherwise). Digest is the SHA-256 of its secret, hexadecimal. ID and Created are
// set.
func (s *Store) AddToken(ctx context.Context, tok Token, digest string) (Token, error) {
	tok.ID = uuid.NewString()
	err := s.update(ctx, func(t *tx) error {
		var role Role
		var have int
		err := t.QueryRow(`SELECT role, (SELECT COUNT(*) FROM user_tokens WHERE user_name = users.name) FROM users WHERE name = ?`, tok.User).Scan(&role, &have)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("user %.64q: %w", tok.User, ErrNotFound)
		case err != nil:
			return fmt.Errorf("user %s: %w", tok.User, err)
		case !role.Includes(tok.Role):
			return fmt.Errorf("user %s is %s: a token of it cannot be %s: %w", tok.User, role, tok.Role, ErrConflict)
		case have >= maxTokens:
			return fmt.Errorf("user %s has %d tokens already: revoke some: %w", tok.User, have, ErrConflict)
		}
		var expires sql.NullInt64
		if tok.Expires != nil {
			expires = sql.NullInt64{Int64: tok.Expires.UnixMilli(), Valid: true}
		}
		res, err := t.Exec(`INSERT INTO user_tokens (id, user_name, name, role, sha256, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (user_name, name) DO NOTHING`, tok.ID, tok.User, tok.Name, string(tok.Role), digest, t.now, expires)
		if err != nil {
			return fmt.Errorf("token %s of user %s: %w", tok.Name, tok.User, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("user %s has a token named %q: %w", tok.User, tok.Name, ErrConflict))
		}
		tok.Created = time.UnixMilli(t.now).UTC()
		return nil
	})
	return tok, err
}

const tokenColumns = `k.id, k.user_name, k.name, k.role, u.role, k.created, k.expires, k.last_used FROM user_tokens AS k JOIN users AS u ON u.name = k.user_name`

// scanToken reads tokenColumns; the role is the lesser of the token's and the user's.
func scanToken(row scanner) (Token, error) {
	var tok Token
	var ofUser Role
	var created int64
	var expires, used sql.NullInt64
	err := row.Scan(&tok.ID, &tok.User, &tok.Name, &tok.Role, &ofUser, &created, &expires, &used)
	if !ofUser.Includes(tok.Role) {
		tok.Role = ofUser
	}
	tok.Created, tok.Expires, tok.LastUsed = time.UnixMilli(created).UTC(), timeOf(expires), timeOf(used)
	return tok, err
}

// TokenByDigest returns the token whose secret has this SHA-256, expired or not.
func (s *Store) TokenByDigest(ctx context.Context, digest string) (Token, error) {
	return s.token(ctx, `k.sha256 = ?`, digest)
}

// Token returns a token by its id.
func (s *Store) Token(ctx context.Context, id string) (Token, error) {
	tok, err := s.token(ctx, `k.id = ?`, id)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%.64q: %w", id, err)
	}
	return tok, err
}

func (s *Store) token(ctx context.Context, where, arg string) (Token, error) {
	tok, err := scanToken(s.r.QueryRowContext(ctx, `SELECT `+tokenColumns+` WHERE `+where, arg))
	if errors.Is(err, sql.ErrNoRows) {
		return Token{}, fmt.Errorf("token: %w", ErrNotFound)
	}
	if err != nil {
		return Token{}, fmt.Errorf("token: %w", err)
	}
	return tok, nil
}

// ListTokens returns up to limit tokens whose id comes after the given one, of one
// user or, with user "", of all.
func (s *Store) ListTokens(ctx context.Context, user, after string, limit int) ([]Token, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+tokenColumns+` WHERE k.id > ? AND (? = '' OR k.user_name = ?) ORDER BY k.id LIMIT ?`, after, user, user, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	defer rows.Close()
	list := []Token{}
	for rows.Next() {
		tok, err := scanToken(rows)
		if err != nil {
			return nil, fmt.Errorf("list tokens: %w", err)
		}
		list = append(list, tok)
	}
	return list, rows.Err()
}

// RemoveToken revokes a token.
func (s *Store) RemoveToken(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM user_tokens WHERE id = ?`, id)
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("token %.64q: %w", id, ErrNotFound))
		}
		return nil
	})
}

// TouchTokens records when tokens were last used.
func (s *Store) TouchTokens(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	return s.update(ctx, func(t *tx) error {
		for id, at := range used {
			if _, err := t.Exec(`UPDATE user_tokens SET last_used = ? WHERE id = ? AND COALESCE(last_used, 0) < ?`, at.UnixMilli(), id, at.UnixMilli()); err != nil {
				return fmt.Errorf("token %s: %w", id, err)
			}
		}
		return nil
	})
}
