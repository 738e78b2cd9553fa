//go:build !ramdisk

package main

import "github.com/teeth-metal/teeth/agent/host"

// ordinary is the program on an installed system.
func ordinary(args []string) int { return host.Main("teeth-agent/"+version, args) }
