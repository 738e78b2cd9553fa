package controlplane

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/backbone"
	"github.com/teeth-metal/teeth/internal/amqplink"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// BackboneConfig says how hosts are told which apps they are to have. Chassis that are
// in the ramdisk are told over their session, which needs none of it.
type BackboneConfig struct {
	// URLs of an AMQP broker's nodes, for hosts with a Backbone slave that speaks
	// AMQP. It may be one that original masters share.
	URLs []string
	// Files for amqps: the CA's certificates, and a certificate with its key to
	// present.
	CA, Cert, Key string
	// Slaves is the broker's URL that agents of approved chassis are given, as they
	// reach it: they keep their apps by it then, in the ramdisk as well. "": by their
	// session.
	Slaves string
}

// broker returns nil if there is none.
func (c BackboneConfig) broker() (*amqplink.Config, error) {
	switch {
	case len(c.URLs) > 0:
		return &amqplink.Config{URLs: c.URLs, CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key}, nil
	case c.CA != "" || c.Cert != "" || c.Key != "":
		return nil, errors.New("backbone: CA, certificate or key are given, but no URL of a broker")
	case c.Slaves != "":
		return nil, errors.New("backbone: agents are given a broker, but the server has none: give it one as well")
	}
	return nil, nil
}

// slaves is what agents are told; nil if they are not to use the broker.
func (c BackboneConfig) slaves() (*teeth.BackboneBroker, error) {
	if c.Slaves == "" {
		return nil, nil
	}
	if err := amqplink.Check(c.Slaves); err != nil {
		return nil, fmt.Errorf("backbone: what agents are given: %w", err)
	}
	b := &teeth.BackboneBroker{URL: c.Slaves}
	if c.CA == "" || !strings.HasPrefix(c.Slaves, "amqps:") {
		return b, nil
	}
	file, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("backbone: CA's certificate: %w", err)
	}
	block, _ := pem.Decode(file)
	if block == nil {
		return nil, fmt.Errorf("backbone: %s has no certificate in PEM", c.CA)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("backbone: %s: %w", c.CA, err)
	}
	sum := sha256.Sum256(ca.Raw)
	b.CASHA256 = hex.EncodeToString(sum[:])
	return b, nil
}

// openBackbone makes the master of apps, which startBackbone starts.
func (s *server) openBackbone() error {
	broker, err := s.Backbone.broker()
	if err != nil {
		return err
	}
	s.apps, err = backbone.New(backbone.Config{
		Store: s.store, Broker: broker, AgentsOnBroker: s.Backbone.Slaves != "", Log: s.Log,
		Session: func(chassis string) (backbone.Session, bool) {
			session, ok := s.gateway.Session(chassis)
			return session, ok && session.Apps()
		},
	})
	return err
}

// appStatus is the gateway's way to the master.
func (s *server) appStatus(ctx context.Context, chassis string, status json.RawMessage) error {
	return s.apps.Status(ctx, chassis, status)
}

// startBackbone starts what serves it. A part that ends with an error ends the server.
func (s *server) startBackbone(ctx context.Context, start func(part func() error)) error {
	if err := s.metrics.Register(s.apps); err != nil {
		return err
	}
	if len(s.Backbone.URLs) > 0 {
		s.health.Add("backbone", func(context.Context) error { return s.apps.Err() })
	}
	start(func() error { return s.apps.Run(ctx) })
	return nil
}
