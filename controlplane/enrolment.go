package controlplane

import (
	"context"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// EnrolmentConfig says which chassis are taken in.
type EnrolmentConfig struct {
	// AutoApprove are rules that approve chassis for as long as this process runs,
	// beside those that operators have stored.
	AutoApprove []store.Rule
}

// startEnrolment starts what carries out decisions about chassis.
func (s *server) startEnrolment(ctx context.Context, start func(part func() error)) error {
	for _, r := range s.Enrolment.AutoApprove {
		s.Log.Warn("chassis are approved without asking", "rule", r.String())
	}
	start(func() error { return s.gateway.Run(ctx) })
	return nil
}
