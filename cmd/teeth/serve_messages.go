package main

import (
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
)

func messagesFlags(f *pflag.FlagSet, c *controlplane.MessagesConfig) {
	f.StringArrayVar(&c.AMQP, "amqp", nil, "amqp[s]://USER:PASSWORD@HOST:PORT/VHOST of a RabbitMQ node (repeatable), on which the control plane speaks RackHD's conventions (default $TEETH_AMQP, several with spaces between; none: no bus outside this process)")
	f.StringVar(&c.CA, "amqp-ca", "", "PEM file of the CA of amqps:// brokers (default: the system's CAs)")
	f.StringVar(&c.Cert, "amqp-cert", "", "PEM file of the certificate to show to amqps:// brokers; with ?auth_mechanism=external in the URL it is the login")
	f.StringVar(&c.Key, "amqp-key", "", "PEM file of the key of --amqp-cert")
}

// messagesDefaults takes what the command line does not have from the environment,
// which, unlike it, other users of the machine cannot see.
func messagesDefaults(c *controlplane.MessagesConfig) {
	if len(c.AMQP) == 0 {
		c.AMQP = strings.Fields(os.Getenv("TEETH_AMQP"))
	}
}
