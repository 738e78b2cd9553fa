package database

import "testing"

func TestRebind(t *testing.T) {
	for query, want := range map[string]string{
		`SELECT 1`:                           `SELECT 1`,
		`a = ? AND b = ?`:                    `a = $1 AND b = $2`,
		`a = '?' AND "b?" = ?`:               `a = '?' AND "b?" = $1`,
		`a = 'it''s ?' OR b = ?`:             `a = 'it''s ?' OR b = $1`,
		"a = ? -- why?\nAND b = ?":           "a = $1 -- why?\nAND b = $2",
		`a LIKE ? ESCAPE '!' AND b - -? > 1`: `a LIKE $1 ESCAPE '!' AND b - -$2 > 1`,
		`a = ? '`:                            `a = $1 '`,
		`?,?,?,?,?,?,?,?,?,?`:                `$1,$2,$3,$4,$5,$6,$7,$8,$9,$10`,
	} {
		if got := Rebind(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestStorable(t *testing.T) {
	for text, want := range map[string]string{"": "", "ü €": "ü €", "a\x00b": "a\uFFFDb", "a\xffb": "a\uFFFDb"} {
		if got := Storable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
