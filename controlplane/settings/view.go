package settings

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// about says of each key what it is, for people who look for the one they need.
var about = map[string]string{
	"log.level":                         "from which level on servers log: silly, debug, info, notice, warning, error, alert or emerg",
	"log.bus":                           "publish the log on the bus as well",
	"boot.kernel_args":                  "further kernel parameters of chassis that boot the ramdisk",
	"events.external":                   "publish events in RackHD's external format 1.0 as well",
	"events.http":                       "publish an event for each file that a chassis fetches",
	"events.heartbeat_seconds":          "how often a server says on the bus that it lives, 1 to 3600",
	"events.severity.graph_failed":      "of graph.finished when it did not succeed: information, warning or critical",
	"events.severity.node_inaccessible": "of node.inaccessible: information, warning or critical",
	"rackhd.tokenless_nodes":            "let RackHD's own ramdisks, which can show no token, fetch commands from the address of their lease",
}

// Setting is one setting as it is in effect. By and Changed are of whoever set it;
// they are empty while it has its default.
type Setting struct {
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
	Default json.RawMessage `json:"default"`
	About   string          `json:"about"`
	By      string          `json:"by,omitempty"`
	Changed *time.Time      `json:"changed,omitempty"`
}

// List returns all settings by key, as they are stored: what another server has just
// set is among them.
func (l *Live) List(ctx context.Context) ([]Setting, error) {
	if err := l.refresh(ctx); err != nil {
		return nil, err
	}
	set, err := l.store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	values, err := l.Values().all()
	if err != nil {
		return nil, err
	}
	defaults, err := Default().all()
	if err != nil {
		return nil, err
	}
	list := make([]Setting, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		s := Setting{Key: key, Value: values[key], Default: defaults[key], About: about[key]}
		for _, stored := range set {
			// What this version does not take is stored, but not in effect.
			if _, err := Default().with(key, stored.Value); stored.Key == key && err == nil {
				s.By, s.Changed = stored.By, &stored.Changed
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// One returns the setting with this key.
func (l *Live) One(ctx context.Context, key string) (Setting, error) {
	list, err := l.List(ctx)
	if err != nil {
		return Setting{}, err
	}
	if i := slices.IndexFunc(list, func(s Setting) bool { return s.Key == key }); i >= 0 {
		return list[i], nil
	}
	if _, err = l.Values().with(key, nil); err == nil {
		err = fmt.Errorf("%w %.80q", ErrUnknown, key)
	}
	return Setting{}, err
}
