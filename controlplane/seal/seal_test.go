package seal

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

const key = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

func sealer(t testing.TB, key string) *Sealer {
	t.Helper()
	s, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	s := sealer(t, key)
	sealed := s.Seal([]byte("calvin"), "bmc/1")
	if strings.Contains(sealed, "calvin") || sealed == s.Seal([]byte("calvin"), "bmc/1") {
		t.Errorf("sealed twice alike, or not at all: %s", sealed)
	}
	if plain, err := s.Open(sealed, "bmc/1"); err != nil || string(plain) != "calvin" {
		t.Errorf("%q, %v", plain, err)
	}
	if plain, err := sealer(t, key).Open(sealed, "bmc/1"); err != nil || string(plain) != "calvin" {
		t.Errorf("after a restart: %q, %v", plain, err)
	}
	flipped := []byte(sealed)
	flipped[len(flipped)/2] ^= 1
	for name, err := range map[string]error{
		"for another thing": second(s.Open(sealed, "bmc/2")),
		"with another key":  second(sealer(t, strings.ToUpper(key)).Open(sealed, "bmc/1")),
		"changed":           second(s.Open(string(flipped), "bmc/1")),
		"cut":               second(s.Open(sealed[:len(sealed)-8], "bmc/1")),
		"empty":             second(s.Open("", "bmc/1")),
		"only the prefix":   second(s.Open(prefix, "bmc/1")),
		"plain":             second(s.Open("calvin", "bmc/1")),
	} {
		if !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New("short"); err == nil {
		t.Error("took a short key")
	}
}

func second(_ []byte, err error) error { return err }

func FuzzOpen(f *testing.F) {
	s := sealer(f, key)
	f.Add(s.Seal([]byte("x"), "w"), "w")
	f.Add("v1:AAAA", "")
	f.Fuzz(func(t *testing.T, sealed, what string) {
		plain, err := s.Open(sealed, what)
		if err != nil {
			return
		}
		if again, err := s.Open(s.Seal(plain, what), what); err != nil || !bytes.Equal(again, plain) {
			t.Errorf("%q: %q, %v", plain, again, err)
		}
	})
}
