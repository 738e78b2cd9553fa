package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func TestSubnetsAndLeases(t *testing.T) {
	info := serve(t)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"subnet list", 0, "NETWORK"},
		{"subnet add 192.0.2.0/24 --pool 192.0.2.100-192.0.2.199 --exclude 192.0.2.150 --gateway 192.0.2.1 --dns 192.0.2.53 --lease 1h --boot-file arm64=my.efi", 0, "192.0.2.100-192.0.2.199"},
		{"subnet add 192.0.2.128/25", 1, "overlaps"},
		{"subnet add 198.51.100.1/24", 2, "bits beyond the prefix"},
		{"subnet add nonsense", 2, "ADDRESS/LENGTH"},
		{"subnet add 2001:db8::/64 --pool 2001:db8::1000-2001:db8::1fff", 0, "2001:db8::/64"},
		{"subnet show 192.0.2.0/24", 0, "my.efi"},
		{"subnet show 203.0.113.0/24", 3, "not found"},
		{"subnet set 2001:db8::/64 --lease 2h", 0, "2h0m0s"},
		{"lease list", 0, "ADDRESS"},
		{"lease pin 192.0.2.7 --mac 52:54:00:12:34:56 --hostname web1", 0, ""},
		{"lease pin 192.0.2.120", 0, ""},
		{"lease pin 52:54:00:00:00:99", 3, "not found"},
		{"lease pin 52:54:00:00:00:99 --hostname x", 2, "no flag goes"},
		{"lease pin 203.0.113.1", 3, "not found"},
		{"lease pin x", 2, "neither an IP nor a MAC"},
		{"lease list --pins", 0, "web1"},
		{"lease unpin 52:54:00:12:34:56", 0, ""},
		{"lease unpin 52:54:00:12:34:56", 3, "not found"},
		{"lease remove 192.0.2.150", 3, "not found"},
		{"subnet remove 2001:db8::/64", 0, ""},
	} {
		out, errs, code := teethCommand(t, append(strings.Fields(c.args), "--client", info.ClientFile)...)
		if code != c.code || !strings.Contains(out+errs, c.says) {
			t.Errorf("teeth %s: exit code %d, stdout %q, stderr %q; want %d and %q", c.args, code, out, errs, c.code, c.says)
		}
	}
	out, _, _ := teethCommand(t, "subnet", "list", "-o", "json", "--client", info.ClientFile)
	var all []client.Subnet
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].LeaseSeconds != 3600 || all[0].BootFiles["arm64"] != "my.efi" {
		t.Errorf("%s: %+v, %v", out, all, err)
	}
}
