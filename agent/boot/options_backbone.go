package boot

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/agent/backbone/broker"
)

// BackboneOptions say which broker has the Backbone master of this chassis' apps.
type BackboneOptions struct {
	URL      string        // teeth.backbone: amqp[s]://user:password@host:port/vhost; "" for none; never logged
	CASHA256 string        // teeth.backbone_ca_sha256: pin of the broker's CA, 64 hex digits; "" for the system's CAs
	Dialect  broker.Choice // teeth.backbone_dialect; "" is automatic
	// Heartbeat is teeth.backbone_heartbeat: how often a status of apps is sent, over
	// the session, too; 0 is the default.
	Heartbeat time.Duration
}

func setBackbone(o *Options, v string) error {
	if err := broker.CheckURL(v); err != nil {
		return fmt.Errorf("teeth.backbone is not usable: %w", err)
	}
	o.Backbone.URL = v
	return nil
}

func setBackboneCA(o *Options, v string) error {
	b, err := hex.DecodeString(strings.ReplaceAll(v, ":", ""))
	if err != nil || len(b) != 32 {
		return fmt.Errorf("teeth.backbone_ca_sha256=%q is not usable: give the SHA-256 of the certificate of the broker's CA, 64 hex digits", v)
	}
	o.Backbone.CASHA256 = hex.EncodeToString(b)
	return nil
}

func setBackboneHeartbeat(o *Options, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 5 || n > 3600 {
		return fmt.Errorf("teeth.backbone_heartbeat=%q is not usable: give 5 to 3600 seconds", v)
	}
	o.Backbone.Heartbeat = time.Duration(n) * time.Second
	return nil
}

func setBackboneDialect(o *Options, v string) error {
	c, err := broker.ParseChoice(v)
	if err != nil {
		return fmt.Errorf("teeth.backbone_dialect is not usable: %w", err)
	}
	o.Backbone.Dialect = c
	return nil
}
