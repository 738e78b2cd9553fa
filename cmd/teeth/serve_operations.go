package main

import (
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
)

func operationsFlags(f *pflag.FlagSet, c *controlplane.OperationsConfig) {}
