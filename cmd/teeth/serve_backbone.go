package main

import (
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
)

func backboneFlags(f *pflag.FlagSet, c *controlplane.BackboneConfig) {
	f.StringArrayVar(&c.URLs, "backbone", nil, "amqp[s]://USER:PASSWORD@HOST:PORT/VHOST of a RabbitMQ node (repeatable), over which apps of hosts with a Backbone slave are kept as desired; original masters may use it too (default $TEETH_BACKBONE, several with spaces between; none: only chassis in the ramdisk, over their session)")
	f.StringVar(&c.CA, "backbone-ca", "", "PEM file of the CA of amqps:// brokers (default: the system's CAs)")
	f.StringVar(&c.Cert, "backbone-cert", "", "PEM file of the certificate to show to amqps:// brokers; with ?auth_mechanism=external in the URL it is the login")
	f.StringVar(&c.Key, "backbone-key", "", "PEM file of the key of --backbone-cert")
	f.StringVar(&c.Slaves, "backbone-slaves", "", "URL of the broker as agents of approved chassis reach it, with the user that slaves have: they keep their apps by it instead of by their session (default $TEETH_BACKBONE_SLAVES)")
}

// backboneDefaults takes what the command line does not have from the environment,
// which, unlike it, other users of the machine cannot see.
func backboneDefaults(c *controlplane.BackboneConfig) {
	if len(c.URLs) == 0 {
		c.URLs = strings.Fields(os.Getenv("TEETH_BACKBONE"))
	}
	if c.Slaves == "" {
		c.Slaves = os.Getenv("TEETH_BACKBONE_SLAVES")
	}
}
