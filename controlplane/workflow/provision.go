package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Provision says what a chassis is to run.
type Provision struct {
	Image       string            `json:"image"`                 // id or name
	RootDevice  *teeth.RootDevice `json:"root_device,omitempty"` // nil: the smallest disk of at least 4 GiB
	Hostname    string            `json:"hostname,omitempty"`
	SSHKeys     []string          `json:"ssh_keys,omitempty"` // lines of authorized_keys
	UserData    string            `json:"user_data,omitempty"`
	NetworkData json.RawMessage   `json:"network_data,omitempty"` // nil: DHCP on the NIC it booted from
	Files       map[string][]byte `json:"files,omitempty"`        // absolute path to contents
	Boot        string            `json:"boot,omitempty"`         // auto (default), kexec, reboot
}

var (
	hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`) // RFC 1123, 2.1
	keyPattern  = regexp.MustCompile(`^(ssh-[a-z0-9]+|ecdsa-sha2-[a-z0-9]+|sk-[a-z0-9-]+@openssh\.com) [A-Za-z0-9+/]+=*( [^\r\n]*)?$`)
)

func (o Provision) check() error {
	switch {
	case o.Hostname != "" && (len(o.Hostname) > 253 || !hostPattern.MatchString(o.Hostname)):
		return invalid("hostname %.80q: want letters, digits and '-' in labels of up to 63 characters", o.Hostname)
	case len(o.NetworkData) > 0 && o.NetworkData[0] != '{':
		return invalid("network_data: want a JSON object in the form of OpenStack's network_data.json")
	case !slices.Contains([]string{"", "auto", "kexec", "reboot"}, o.Boot):
		return invalid("boot %.20q: want auto, kexec or reboot", o.Boot)
	}
	for i, k := range o.SSHKeys {
		if !keyPattern.MatchString(k) {
			return invalid("ssh_keys: number %d is not a public key as in authorized_keys, without options", i+1)
		}
	}
	for name := range o.Files {
		if !path.IsAbs(name) || path.Clean(name) != name || name == "/" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return invalid("files: %.80q: want an absolute path without . or .. in it", name)
		}
	}
	return nil
}

// Provision runs Graph.Provision. The chassis is named by the host name.
func (e *Engine) Provision(ctx context.Context, c store.Chassis, o Provision, by string) (store.Graph, error) {
	options, err := toMap(o)
	if err != nil {
		return store.Graph{}, err
	}
	shared := map[string]any{}
	for _, key := range []string{"image", "root_device"} {
		if v, ok := options[key]; ok {
			shared[key] = v
			delete(options, key)
		}
	}
	return e.RunGraph(ctx, Request{
		Graph: GraphProvision, Chassis: c.ID, By: by, Options: map[string]any{definition.Defaults: shared, "run": options},
	})
}

// minRootDevice is the least size of a disk that is chosen without hints.
const minRootDevice = 4 << 30

// rootDevice turns hints into the identity of one disk of the inventory, by the
// agent's own rule, so that all steps of a run mean the same disk. Without an
// inventory the agent chooses.
func rootDevice(c store.Chassis, hint *teeth.RootDevice) (*teeth.RootDevice, error) {
	if len(c.Inventory) == 0 {
		return hint, nil
	}
	present, err := disks(c)
	if err != nil {
		return nil, err
	}
	none := hint == nil || *hint == teeth.RootDevice{}
	if none {
		hint = &teeth.RootDevice{}
	}
	same := func(want, have string) bool {
		return want == "" || strings.EqualFold(strings.TrimSpace(want), strings.TrimSpace(have))
	}
	var best *disk
	for i, d := range present {
		switch {
		case d.ReadOnly,
			none && (d.Size < minRootDevice || d.Removable || d.Transport == "usb"),
			!same(hint.Serial, d.Serial), !same(hint.WWN, d.WWN), hint.Size != 0 && hint.Size != d.Size,
			!strings.Contains(strings.ToLower(d.Model), strings.ToLower(hint.Model)),
			hint.Transport != "" && hint.Transport != d.Transport,
			d.Size < hint.MinSize:
			continue
		}
		if best == nil || d.Size < best.Size {
			best = &present[i]
		}
	}
	if best == nil {
		return nil, invalid("no disk of the inventory can be the root device; it has %s", listing(present))
	}
	return &teeth.RootDevice{Disk: best.identity()}, nil
}

// configDrive is what cloud-init will find: OpenStack's meta data, vendor data
// and network data.
func configDrive(c store.Chassis, o Provision, phoneHome string) (*teeth.ConfigDrive, error) {
	keys := map[string]string{}
	for i, k := range o.SSHKeys {
		keys[fmt.Sprintf("key-%d", i)] = k
	}
	// The instance is new even if the chassis is not: cloud-init runs once for
	// each uuid.
	meta := map[string]any{"uuid": uuid.NewString(), "public_keys": keys}
	if o.Hostname != "" {
		meta["hostname"], meta["name"] = o.Hostname, o.Hostname
	}
	// JSON strings are YAML strings too.
	address, err := json.Marshal(phoneHome)
	if err != nil {
		return nil, err
	}
	vendor := map[string]any{"cloud-init": "#cloud-config\nphone_home:\n  url: " + string(address) + "\n  post: all\n  tries: 10\n"}
	network := o.NetworkData
	if len(network) == 0 && macPattern.MatchString(c.MAC) {
		network, err = json.Marshal(map[string]any{
			"links":    []any{map[string]any{"id": "boot", "type": "phy", "ethernet_mac_address": c.MAC}},
			"networks": []any{map[string]any{"id": "boot-ipv4", "link": "boot", "type": "ipv4_dhcp"}},
			"services": []any{},
		})
		if err != nil {
			return nil, err
		}
	}
	drive := &teeth.ConfigDrive{UserData: o.UserData, NetworkData: network, Files: o.Files}
	if drive.MetaData, err = json.Marshal(meta); err != nil {
		return nil, err
	}
	drive.VendorData, err = json.Marshal(vendor)
	return drive, err
}

var macPattern = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
