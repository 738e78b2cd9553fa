package api

import (
	"slices"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/store"
)

func TestAddressSchemasAgree(t *testing.T) {
	d, _ := parse(t)
	for name, pair := range map[string][2]any{
		"Subnet":      {store.Subnet{}, client.Subnet{}},
		"Lease":       {store.Lease{}, client.Lease{}},
		"Reservation": {store.Reservation{}, client.Reservation{}},
	} {
		var described []string
		for p := range d.Components.Schemas[name].Properties {
			described = append(described, p)
		}
		slices.Sort(described)
		if server, c := fields(pair[0]), fields(pair[1]); !slices.Equal(server, described) || !slices.Equal(c, described) {
			t.Errorf("%s:\ndescribed %q\nserver    %q\nclient    %q", name, described, server, c)
		}
	}
}
