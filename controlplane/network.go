package controlplane

import "context"

// NetworkConfig says how chassis get addresses and what they boot: DHCP, TFTP, HTTP.
type NetworkConfig struct{}

// startNetwork starts what serves it. A part that ends with an error ends the server.
func (s *server) startNetwork(ctx context.Context, start func(part func() error)) error {
	return nil
}
