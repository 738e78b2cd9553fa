package store

import (
	"fmt"
	"slices"
	"strings"
)

// byMACs is the condition that a chassis has one of so many MAC addresses. It goes
// by an index: strangers on the boot network choose when it is asked.
func byMACs(n int) string {
	return `id IN (SELECT m.chassis FROM chassis_macs m WHERE m.mac IN (?` + strings.Repeat(`, ?`, n-1) + `))`
}

// saveMACs records the MAC addresses that a chassis says it has now, if they are
// others than before.
func (t *tx) saveMACs(before board, now identity) error {
	id := before.id
	if slices.Equal(slices.Sorted(slices.Values(before.macs)), slices.Sorted(slices.Values(now.macs))) {
		return nil
	}
	if _, err := t.Exec(`DELETE FROM chassis_macs WHERE chassis = ?`, id); err != nil {
		return fmt.Errorf("chassis %s: MAC addresses: %w", id, err)
	}
	for _, m := range now.macs {
		if _, err := t.Exec(`INSERT INTO chassis_macs (mac, chassis) VALUES (?, ?)`, m, id); err != nil {
			return fmt.Errorf("chassis %s: MAC addresses: %w", id, err)
		}
	}
	return nil
}
