// Package seal encrypts what the store keeps and must be able to read again,
// such as the passwords of BMCs, with the estate's secrets.key (AES-256-GCM).
// Whoever has the database or its backup without that file learns none of it.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// prefix names the way of sealing, so that another may follow.
const prefix = "v1:"

// minKey is the least length of a key, in bytes; pki.Secret's have 43.
const minKey = 32

// ErrSealed is wrapped by errors of what cannot be opened: it was sealed with
// another key or for something else, or has been changed.
var ErrSealed = errors.New("cannot open what is sealed")

// Sealer seals and opens. It is safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// New returns the Sealer of a key, which must have at least 32 random characters.
func New(key string) (*Sealer, error) {
	if len(key) < minKey {
		return nil, fmt.Errorf("secrets key: it has %d characters, want at least %d: restore secrets.key from where it was kept", len(key), minKey)
	}
	// Other uses of the same file derive other keys.
	derived, err := hkdf.Key(sha256.New, []byte(key), nil, "teeth seal 1", 32)
	if err != nil {
		return nil, fmt.Errorf("secrets key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("secrets key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("secrets key: %w", err)
	}
	return &Sealer{aead}, nil
}

// Seal returns plain encrypted, as text. What it is for ("bmc/<id>", say) must be
// given to Open again, so that no sealed text can stand in for another's.
func (s *Sealer) Seal(plain []byte, what string) string {
	return prefix + base64.RawStdEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(what)))
}

// Open returns what Seal was given.
func (s *Sealer) Open(sealed, what string) ([]byte, error) {
	text, ok := strings.CutPrefix(sealed, prefix)
	if !ok {
		return nil, fmt.Errorf("%s: %w: it does not begin with %q", what, ErrSealed, prefix)
	}
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, ErrSealed, err)
	}
	plain, err := s.aead.Open(nil, nil, b, []byte(what))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: was it sealed with another secrets.key?", what, ErrSealed)
	}
	return plain, nil
}
