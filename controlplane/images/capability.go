package images

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrCapability is wrapped by errors of a capability that opens nothing.
var ErrCapability = errors.New("capability refused")

// maxCapability bounds what CheckCapability looks at.
const maxCapability = 128

// Capability returns what a download of the image with this id is to show until
// a time, for a query parameter: it holds letters, digits, '-', '_' and '.'.
// Whoever knows the key (the estate's secrets.key) can make and check it, so that
// any server of an estate takes what another has given out.
func Capability(key, image string, until time.Time) string {
	expiry := strconv.FormatInt(until.Unix(), 36)
	return expiry + "." + base64.RawURLEncoding.EncodeToString(capabilityMAC(key, image, expiry))
}

// CapabilityParameter is the query parameter of an image's URL that holds the
// capability.
const CapabilityParameter = "capability"

// URL is where the server whose boot listener has the base URL given serves an
// image, with a capability good until a time.
func URL(base, key, image string, until time.Time) string {
	return strings.TrimSuffix(base, "/") + "/images/" + image + "?" + CapabilityParameter + "=" + Capability(key, image, until)
}

// CheckCapability returns nil if capability opens the image at the time now.
func CheckCapability(key, image, capability string, now time.Time) error {
	if len(capability) > maxCapability {
		return fmt.Errorf("%w: it is too long", ErrCapability)
	}
	expiry, code, ok := strings.Cut(capability, ".")
	if !ok {
		return fmt.Errorf("%w: it is none", ErrCapability)
	}
	mac, err := base64.RawURLEncoding.DecodeString(code)
	if err != nil || key == "" || !hmac.Equal(mac, capabilityMAC(key, image, expiry)) {
		return fmt.Errorf("%w: it is not for image %.64q", ErrCapability, image)
	}
	until, err := strconv.ParseInt(expiry, 36, 64)
	if err != nil {
		return fmt.Errorf("%w: its expiry %q is no number", ErrCapability, expiry)
	}
	if end := time.Unix(until, 0); now.After(end) {
		return fmt.Errorf("%w: it was good until %s", ErrCapability, end.UTC().Format(time.RFC3339))
	}
	return nil
}

func capabilityMAC(key, image, expiry string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	// The first part keeps it apart from what else the key is used for.
	fmt.Fprintf(h, "teeth image capability 1\x00%s\x00%s", expiry, image)
	return h.Sum(nil)
}
