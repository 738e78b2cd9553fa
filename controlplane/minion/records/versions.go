package records

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/mod/semver"
)

// Kinds of an AgentVersion.
const (
	KindAgent = "agent" // the program of an installed host
	KindImage = "image" // the description of a ramdisk
)

// AgentVersion is a version of the agent that hosts or ramdisks can upgrade to. One
// without a signature is for agents of the original, which know none.
type AgentVersion struct {
	ID        int64  `json:"id"`
	Version   string `json:"version"` // 1.2.3
	Kind      string `json:"kind"`    // KindAgent or KindImage
	Arch      string `json:"arch"`    // as Go names it; "": any
	URL       string `json:"url"`     // may be relative to that of the version URL
	MD5       string `json:"md5,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	Signature string `json:"signature,omitempty"` // minisign's file
	Size      int64  `json:"size,omitempty"`      // bytes; 0: unknown
}

const (
	maxVersions     = 1000
	maxSignature    = 4 << 10
	maxVersionText  = 64
	maxVersionURL   = 2048
	maxVersionBytes = 1 << 30
)

var architecture = regexp.MustCompile(`^[a-z0-9]{0,16}$`)

// newer reports whether version a comes after b. What is no version of semver comes
// before all that are.
func newer(a, b string) bool {
	canonical := func(v string) string { return "v" + strings.TrimPrefix(v, "v") }
	return semver.Compare(canonical(a), canonical(b)) > 0
}

func (v *AgentVersion) check() error {
	invalid := func(format string, a ...any) error {
		return fmt.Errorf("agent version: "+format+": %w", append(a, ErrInvalid)...)
	}
	if v.Kind == "" {
		v.Kind = KindAgent
	}
	digest, err := hex.DecodeString(v.SHA256)
	if err != nil || v.SHA256 != "" && len(digest) != 32 {
		return invalid("sha256 is not 64 hexadecimal digits")
	}
	if sum, err := hex.DecodeString(v.MD5); err != nil || v.MD5 != "" && len(sum) != 16 {
		return invalid("md5 is not 32 hexadecimal digits")
	}
	u, err := url.Parse(v.URL)
	switch {
	case len(v.Version) > maxVersionText || !semver.IsValid("v"+strings.TrimPrefix(v.Version, "v")):
		return invalid("version %.80q: want numbers as in 1.2.3", v.Version)
	case v.Kind != KindAgent && v.Kind != KindImage:
		return invalid("kind %.40q: want %s or %s", v.Kind, KindAgent, KindImage)
	case !architecture.MatchString(v.Arch):
		return invalid("arch %.40q: want a name as amd64", v.Arch)
	case v.URL == "" || len(v.URL) > maxVersionURL || err != nil || u.User != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return invalid("url: want http://…, https://…, or a path on the boot server")
	case len(v.Signature) > maxSignature:
		return invalid("a signature of %d bytes", len(v.Signature))
	case v.Signature != "" && v.SHA256 == "":
		return invalid("a signed version needs its sha256")
	case v.Size < 0 || v.Size > maxVersionBytes:
		return invalid("size %d: want up to %d bytes", v.Size, maxVersionBytes)
	}
	return nil
}

// AddAgentVersion adds a version. One of the same number, kind and architecture is an
// error that wraps ErrConflict: what was published under a number does not change.
func (d *DB) AddAgentVersion(ctx context.Context, v AgentVersion) (AgentVersion, error) {
	if err := v.check(); err != nil {
		return v, err
	}
	err := d.transact(ctx, func(t *sql.Tx) error {
		var same, all int
		if err := t.QueryRowContext(ctx, d.d.rebind(`SELECT COUNT(*), COALESCE(SUM(CASE WHEN version = ? AND kind = ? AND arch = ? THEN 1 ELSE 0 END), 0) FROM agent_versions`),
			v.Version, v.Kind, v.Arch).Scan(&all, &same); err != nil {
			return err
		}
		if same > 0 {
			return fmt.Errorf("version %s of %s for %s is there: %w", v.Version, v.Kind, anyArch(v.Arch), ErrConflict)
		}
		if all >= maxVersions {
			return fmt.Errorf("%d versions are there: remove old ones: %w", all, ErrConflict)
		}
		return t.QueryRowContext(ctx, d.d.rebind(`INSERT INTO agent_versions (version, md5, url, kind, arch, sha256, signature, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`),
			v.Version, v.MD5, v.URL, v.Kind, v.Arch, v.SHA256, v.Signature, v.Size).Scan(&v.ID)
	})
	if err != nil {
		return v, fmt.Errorf("add agent version: %w", err)
	}
	return v, nil
}

func anyArch(arch string) string {
	if arch == "" {
		return "any architecture"
	}
	return arch
}

// AgentVersions returns all versions, in the order in which they were added.
func (d *DB) AgentVersions(ctx context.Context) ([]AgentVersion, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT id, version, md5, url, kind, arch, sha256, signature, size FROM agent_versions ORDER BY id LIMIT 10000`)
	if err != nil {
		return nil, fmt.Errorf("agent versions: %w", d.unavailable(err))
	}
	defer rows.Close()
	all := []AgentVersion{}
	for rows.Next() {
		var v AgentVersion
		if err := rows.Scan(&v.ID, &v.Version, &v.MD5, &v.URL, &v.Kind, &v.Arch, &v.SHA256, &v.Signature, &v.Size); err != nil {
			return nil, fmt.Errorf("agent versions: %w", err)
		}
		all = append(all, v)
	}
	return all, d.unavailable(rows.Err())
}

// NewestAgentVersion returns the newest version of a kind for an architecture, signed
// ones only if so wanted. There is none: ErrNotFound.
func (d *DB) NewestAgentVersion(ctx context.Context, kind, arch string, signed bool) (AgentVersion, error) {
	// Anybody on the boot network may ask: no more is read than it takes.
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT id, version FROM agent_versions WHERE kind = ? AND (? = '' OR arch = '' OR arch = ?) AND (? = 0 OR signature <> '') ORDER BY id LIMIT 10000`),
		kind, arch, arch, flag(signed))
	if err != nil {
		return AgentVersion{}, fmt.Errorf("newest agent version: %w", d.unavailable(err))
	}
	defer rows.Close()
	var best AgentVersion
	for rows.Next() {
		var v AgentVersion
		if err := rows.Scan(&v.ID, &v.Version); err != nil {
			return AgentVersion{}, fmt.Errorf("newest agent version: %w", err)
		}
		if best.ID == 0 || !newer(best.Version, v.Version) {
			best = v
		}
	}
	if err := rows.Err(); err != nil {
		return AgentVersion{}, fmt.Errorf("newest agent version: %w", d.unavailable(err))
	}
	v := &best
	err = d.r.QueryRowContext(ctx, d.d.rebind(`SELECT id, version, md5, url, kind, arch, sha256, signature, size FROM agent_versions WHERE id = ?`), best.ID).
		Scan(&v.ID, &v.Version, &v.MD5, &v.URL, &v.Kind, &v.Arch, &v.SHA256, &v.Signature, &v.Size)
	if errors.Is(err, sql.ErrNoRows) {
		return AgentVersion{}, fmt.Errorf("version of %.40q for %.40q: %w", kind, anyArch(arch), ErrNotFound)
	}
	if err != nil {
		return AgentVersion{}, fmt.Errorf("newest agent version: %w", d.unavailable(err))
	}
	return best, nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// RemoveAgentVersion removes a version. What has upgraded to it stays as it is.
func (d *DB) RemoveAgentVersion(ctx context.Context, id int64) error {
	err := d.transact(ctx, func(t *sql.Tx) error {
		res, err := t.ExecContext(ctx, d.d.rebind(`DELETE FROM agent_versions WHERE id = ?`), id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return ErrNotFound
	})
	if err != nil {
		return fmt.Errorf("remove agent version %d: %w", id, err)
	}
	return nil
}
