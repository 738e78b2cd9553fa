package images

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCapability(t *testing.T) {
	const key, image = "secret", "5f2f0c5c-6a53-4dc5-9d8c-2f5f2b1a0c11"
	until := time.Unix(1_800_000_000, 0)
	good := Capability(key, image, until)
	if strings.Trim(good, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "" {
		t.Errorf("%q needs escaping in a URL", good)
	}
	expiry, code, _ := strings.Cut(good, ".")
	later := Capability(key, image, until.Add(time.Hour))
	for name, c := range map[string]struct {
		key, image, capability string
		now                    time.Time
		ok                     bool
	}{
		"good":            {key, image, good, until.Add(-time.Second), true},
		"last second":     {key, image, good, until, true},
		"over":            {key, image, good, until.Add(time.Second), false},
		"another image":   {key, "x", good, until.Add(-time.Second), false},
		"another key":     {"other", image, good, until.Add(-time.Second), false},
		"no key":          {"", image, Capability("", image, until), until.Add(-time.Second), false},
		"put off":         {key, image, strings.Split(later, ".")[0] + "." + code, until.Add(-time.Second), false},
		"no code":         {key, image, expiry + ".", until.Add(-time.Second), false},
		"cut":             {key, image, good[:len(good)-2], until.Add(-time.Second), false},
		"nothing":         {key, image, "", until.Add(-time.Second), false},
		"only a dot":      {key, image, ".", until.Add(-time.Second), false},
		"endless":         {key, image, strings.Repeat("a", 1<<20), until.Add(-time.Second), false},
		"parts displaced": {key, "." + image, good, until.Add(-time.Second), false},
	} {
		err := CheckCapability(c.key, c.image, c.capability, c.now)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrCapability) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCheckCapability(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(Capability("k", "image", now))
	f.Add("zz.AA")
	f.Add("")
	f.Fuzz(func(t *testing.T, c string) {
		if CheckCapability("k", "image", c, now) == nil {
			// Base64 of 32 bytes leaves bits unused, so only what it decodes to is fixed.
			expiry, _, _ := strings.Cut(c, ".")
			if !strings.HasPrefix(c, expiry+"."+string(Capability("k", "image", now)[len(expiry)+1:][:40])) {
				t.Errorf("forged: %q", c)
			}
		}
	})
}
