package controlplane

import "context"

// OperationsConfig says what runs the server itself: users, metrics, audit.
type OperationsConfig struct{}

// startOperations starts what serves it. A part that ends with an error ends the server.
func (s *server) startOperations(ctx context.Context, start func(part func() error)) error {
	return nil
}
