package boot

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MinionOptions are a StreamServer for the records of this chassis. What is not given
// is as the control plane says.
type MinionOptions struct {
	Servers  []string // teeth.minion: host:port, tried in order
	Group    string   // teeth.minion_group
	ID       string   // teeth.minion_id: of this chassis in the group
	Key      string   // teeth.minion_key: secret of the group, or of the chassis; never logged
	Insecure bool     // teeth.minion_insecure: plain TCP, as originals speak it
}

func setMinion(o *Options, v string) error {
	var servers []string
	for s := range strings.SplitSeq(v, ",") {
		hp, err := hostPort(s, DefaultMinionPort)
		if err != nil {
			return fmt.Errorf("teeth.minion=%q is not usable: %w", v, err)
		}
		servers = append(servers, hp)
	}
	o.Minion.Servers = servers
	return nil
}

func setMinionGroup(o *Options, v string) error {
	return setMinionName(&o.Minion.Group, "teeth.minion_group", v)
}

func setMinionID(o *Options, v string) error {
	return setMinionName(&o.Minion.ID, "teeth.minion_id", v)
}

// setMinionKey must not repeat the value.
func setMinionKey(o *Options, v string) error {
	if setMinionName(&o.Minion.Key, "", v) != nil {
		return errors.New("teeth.minion_key is not usable: give 1 to 255 printable characters")
	}
	return nil
}

func setMinionInsecure(o *Options, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("teeth.minion_insecure=%q is not usable: write 0 or 1", v)
	}
	o.Minion.Insecure = b
	return nil
}

// setMinionName takes what goes into frames of the Minion protocol.
func setMinionName(to *string, key, v string) error {
	if v == "" || len(v) > 255 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s=%q is not usable: give 1 to 255 printable characters", key, v)
	}
	*to = v
	return nil
}
