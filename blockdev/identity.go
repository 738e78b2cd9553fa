package blockdev

import (
	"errors"
	"fmt"
	"strings"
)

// ErrMismatch is wrapped by every error that says a disk is not the one a
// command named.
var ErrMismatch = errors.New("not the disk that was named")

// Identity names a disk by what does not change between boots. Empty fields
// are not compared.
type Identity struct {
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Size   int64  `json:"size,omitempty"` // bytes
}

// Identity returns what of i a command should name to mean this disk only.
func (i Info) Identity() Identity {
	return Identity{Serial: i.Serial, WWN: i.WWN, Size: i.Size}
}

// IsZero reports whether id names nothing at all.
func (id Identity) IsZero() bool { return id == Identity{} }

// Match returns nil when every field set in id equals i's, else an error that
// wraps ErrMismatch and names the first field that differs. Case and the white
// space around serial numbers do not count.
func (i Info) Match(id Identity) error {
	same := func(a, b string) bool { return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b)) }
	switch {
	case id.Serial != "" && !same(id.Serial, i.Serial):
		return fmt.Errorf("disk %s: serial is %q, expected %q: %w", i.Path, i.Serial, id.Serial, ErrMismatch)
	case id.WWN != "" && !same(id.WWN, i.WWN):
		return fmt.Errorf("disk %s: WWN is %q, expected %q: %w", i.Path, i.WWN, id.WWN, ErrMismatch)
	case id.Size != 0 && id.Size != i.Size:
		return fmt.Errorf("disk %s: size is %d bytes, expected %d: %w", i.Path, i.Size, id.Size, ErrMismatch)
	}
	return nil
}
