package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// maxCapability bounds what is looked at of one, in bytes.
const maxCapability = 128

// Capability returns what opens the commands of a chassis during one boot of its
// agent: letters, digits, '-', '_' and '.'. Its agent gets it over the session,
// which has proven who it is. Whoever knows the key (the estate's secrets.key) can
// make and check it, so that every server of an estate takes it. Without a key or
// boot id there is none: "".
func Capability(key, chassis, bootID string) string {
	if key == "" || bootID == "" {
		return ""
	}
	return chassis + "." + base64.RawURLEncoding.EncodeToString(capabilityMAC(key, chassis, bootID))
}

// chassisOf is the id of the chassis that a capability is said to be of. Nothing
// has been checked of it yet.
func chassisOf(capability string) (string, error) {
	chassis, _, ok := strings.Cut(capability, ".")
	if !ok || len(capability) > maxCapability || len(chassis) != 36 || uuid.Validate(chassis) != nil {
		return "", fmt.Errorf("%w: the capability is none", errRefused)
	}
	return chassis, nil
}

// checkCapability returns nil if it opens the chassis during its boot.
func checkCapability(key, chassis, bootID, capability string) error {
	want := Capability(key, chassis, bootID)
	if want == "" || !hmac.Equal([]byte(capability), []byte(want)) {
		return fmt.Errorf("%w: the capability is not of chassis %s as it has booted last", errRefused, chassis)
	}
	return nil
}

func capabilityMAC(key, chassis, bootID string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	// The first part keeps it apart from what else the key is used for.
	fmt.Fprintf(h, "teeth node tasks capability 1\x00%s\x00%s", chassis, bootID)
	return h.Sum(nil)
}
