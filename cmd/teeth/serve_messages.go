package main

import (
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
)

func messagesFlags(f *pflag.FlagSet, c *controlplane.MessagesConfig) {}
