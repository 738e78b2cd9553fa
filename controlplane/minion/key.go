package minion

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// ChassisKey returns the key of a chassis in ChassisGroup: the HMAC-SHA256 of its
// server id under the estate's secret, hexadecimal. So no chassis can speak for
// another, and no key needs to be kept.
func ChassisKey(secret, chassis string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.ToLower(chassis)))
	return hex.EncodeToString(mac.Sum(nil))
}
