// Command teeth-agent is PID 1 of a chassis that Teeth provisions.
package main

import (
	"context"

	"github.com/teeth-metal/teeth/agent/boot"
)

func main() {
	defer boot.Recover("main")
	m, err := boot.Start(context.Background())
	if err != nil {
		boot.LastWords(err)
	}
	m.Log.Info("agent ready", "nic", m.NIC, "mac", m.MAC, "servers", m.Servers())
	<-m.Context().Done()
	m.Reboot(context.Cause(m.Context()).Error())
}
