// Command teeth-agent is PID 1 of a chassis that Teeth provisions, and an ordinary
// program on a system that is installed.
package main

import (
	"context"
	"os"

	"github.com/teeth-metal/teeth/agent"
	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/app/sandbox"
)

// version is set by the builder of the image.
var version = "devel"

func main() {
	sandbox.Init() // this process may be the first of an app's
	if os.Getpid() != 1 {
		os.Exit(ordinary(os.Args[1:]))
	}
	defer boot.Recover("main")
	m, err := boot.Start(context.Background())
	if err != nil {
		boot.LastWords(err)
	}
	agent.Run(m, "teeth-agent/"+version)
	m.Reboot(context.Cause(m.Context()).Error())
}
