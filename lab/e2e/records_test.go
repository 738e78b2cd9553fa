package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
)

// TestRecords reboots a chassis from within and reads what it has said: from the first
// line of its kernel to the last of the agent, over a StreamServer, and over the
// session where there is none.
func TestRecords(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"stream server": nil,
		"session":       {"--minion", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := controlWith(t, estate.Options{Flags: append([]string{"--auto-approve", "all"}, flags...)})
			pin, token := credentials(t, c.Dir)
			spec := direct(lab.Spec{Name: "records", Dir: t.TempDir(), Memory: 256 << 20, NIC: "e1000e"},
				"teeth.server="+c.AgentsFromChassis()+" teeth.ca_sha256="+pin+" teeth.token="+token)
			chassis := power(t, spec)
			if _, err := c.WaitChassis(within(t, 5*time.Minute), "LAB-RECORDS", func(ch client.Chassis) bool { return ch.Connected && ch.Inspected != nil }); err != nil {
				t.Fatal(err)
			}
			if _, err := c.RunGraph(t.Context(), client.RunGraph{Graph: "Graph.Reboot", Chassis: "LAB-RECORDS"}); err != nil {
				t.Fatal(err)
			}
			if _, err := chassis.ExpectSerial(within(t, 4*time.Minute), 0, "leaving this ramdisk"); err != nil {
				t.Fatal(err)
			}
			var lines []client.LogLine
			has := func(service, text string) bool {
				for _, l := range lines {
					if l.Service == service && strings.Contains(l.Message, text) {
						return true
					}
				}
				return false
			}
			for ctx := within(t, time.Minute); !has("agent", "leaving this ramdisk"); time.Sleep(100 * time.Millisecond) {
				lines = nil
				err := c.Logs(ctx, client.LogFilter{Chassis: []string{"LAB-RECORDS"}}, func(l client.LogLine) error {
					lines = append(lines, l)
					return nil
				})
				if err != nil {
					t.Fatalf("%v; %d lines", err, len(lines))
				}
			}
			for _, want := range [][2]string{
				{"kernel", "Linux version"}, {"kernel", "teeth.token=(secret)"},
				{"agent", "phase done phase=mounts"}, {"agent", "task accepted"},
				{"task", "method=reboot state=running"}, {"task", "method=reboot state=complete"},
			} {
				if !has(want[0], want[1]) {
					t.Errorf("no line %q of %s", want[1], want[0])
				}
			}
			seen := map[string]bool{}
			for _, l := range lines {
				if strings.Contains(l.Message, token) {
					t.Errorf("the token is in %q", l.Message)
				}
				if l.Service == "kernel" && seen[l.Message] && strings.Contains(l.Message, "Linux version") {
					t.Errorf("twice: %q", l.Message)
				}
				seen[l.Message] = true
			}
			t.Logf("%d lines, first %q, last %q", len(lines), lines[0].Message, lines[len(lines)-1].Message)
		})
	}
}
