package main

import (
	"os"

	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
)

func minionFlags(f *pflag.FlagSet, c *controlplane.MinionConfig) {
	f.StringVar(&c.Address, "minion", controlplane.DefaultMinion, "address for Minion agents, which send logs and telemetry and take commands, TLS; chassis are told of it (\"\": none)")
	f.StringVar(&c.Insecure, "insecure-minion", "", "one more, over plain TCP, where keys and commands can be read on the way: the original Minion agent's only way in")
	f.StringVar(&c.Groups, "minion-config", "", "YAML file of groups of Minion agents, with the keys groups, service_defaults, services and telemetry of the original StreamServer; group \"chassis\" needs none")
	f.StringVar(&c.Database, "minion-db", "", "postgres://USER@HOST/DATABASE for logs, telemetry and commands, or sqlite:PATH (default $TEETH_MINION_DB, or schema minion of --db's PostgreSQL, or records.db in the data folder)")
	f.DurationVar(&c.Keep, "minion-keep", records.DefaultKeep, "how long logs, telemetry and commands are kept; negative: without end")
	f.Int64Var(&c.MaxBytes, "minion-max-bytes", records.DefaultMaxBytes, "disk that logs may take before the oldest are dropped earlier, in bytes; negative: no limit")
}

// minionDefaults takes what the command line does not have from the environment,
// which, unlike it, other users of the machine cannot see.
func minionDefaults(c *controlplane.MinionConfig) {
	if c.Database == "" {
		c.Database = os.Getenv("TEETH_MINION_DB")
	}
}
