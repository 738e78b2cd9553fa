// Command teeth-agent is PID 1 of a chassis that Teeth provisions.
package main

import (
	"context"

	"github.com/teeth-metal/teeth/agent"
	"github.com/teeth-metal/teeth/agent/boot"
)

// version is set by the builder of the image.
var version = "devel"

func main() {
	defer boot.Recover("main")
	m, err := boot.Start(context.Background())
	if err != nil {
		boot.LastWords(err)
	}
	agent.Run(m, "teeth-agent/"+version)
	m.Reboot(context.Cause(m.Context()).Error())
}
