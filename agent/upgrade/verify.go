package upgrade

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"aead.dev/minisign"
)

// Key is a public key of minisign.
type Key struct{ key minisign.PublicKey }

// ParseKey reads a public key: the line of base64 that begins with RW, or the whole
// of minisign's file.
func ParseKey(text string) (Key, error) {
	var k Key
	if len(text) > 1024 || k.key.UnmarshalText([]byte(strings.TrimSpace(text))) != nil {
		return k, errors.New("the key of upgrades makes no sense: want the public key of minisign, a line that begins with RW")
	}
	return k, nil
}

// String is the line of base64.
func (k Key) String() string { return k.key.String() }

// Verify reads a file to its end and reports why it is not what a release says, of that
// kind and for this machine.
func (k Key) Verify(r Release, kind string, file io.Reader) error {
	err := k.verify(r, kind, file)
	if err != nil {
		return fmt.Errorf("version %s: %w", r.Version, err)
	}
	return nil
}

func (k Key) verify(r Release, kind string, file io.Reader) error {
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(r.Signature)); err != nil {
		return fmt.Errorf("its signature is not one of minisign: %w", err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return errors.New("its signature is of minisign's old kind: sign it with a newer minisign")
	}
	if s.KeyID != k.key.ID() {
		return fmt.Errorf("it is signed by key %X, and the configuration has key %X", s.KeyID, k.key.ID())
	}
	h := minisign.NewReader(file)
	if _, err := io.Copy(io.Discard, h); err != nil {
		return err
	}
	if !h.Verify(k.key, []byte(r.Signature)) {
		return errors.New("the signature is not that of the file: it was changed, or signed by somebody else")
	}
	return matches(s.TrustedComment, r.Version, kind)
}

// matches compares the signed comment with what the file is taken for.
func matches(comment, version, kind string) error {
	said := map[string]string{"kind": Agent}
	for _, word := range strings.Fields(comment) {
		if name, value, ok := strings.Cut(word, ":"); ok {
			said[name] = value
		}
	}
	switch {
	case said["version"] == "":
		return fmt.Errorf("the signature does not say of which version it is: sign with the trusted comment %q", "version:"+version)
	case canonical(said["version"]) != canonical(version):
		return fmt.Errorf("the signature is of version %.40q", said["version"])
	case said["kind"] != kind:
		return fmt.Errorf("the signature is of kind %.40q, want %q", said["kind"], kind)
	case said["arch"] != "" && said["arch"] != runtime.GOARCH:
		return fmt.Errorf("the signature is for %.40q, and this machine is %s", said["arch"], runtime.GOARCH)
	}
	return nil
}

// Comment is the trusted comment of a signature.
func Comment(version, kind, arch string) string {
	return "version:" + version + " kind:" + kind + " arch:" + arch
}
