package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/agent/host"
	"github.com/teeth-metal/teeth/controlplane/client"
)

func chassisAgentConfig(conn *connection) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "agent-config CHASSIS",
		Short: "Print a configuration for the agent on a chassis' installed system",
		Long: chassisHelp + `
With it teeth-agent, on the system that was installed, sends logs and takes commands
under the same id as the ramdisk's did:

  teeth chassis agent-config CHASSIS --file config.yml
  scp config.yml root@HOST:` + host.DefaultConfig + ` # mode 0600
  teeth-agent -t                                 # on HOST: connects and authenticates

It holds the chassis' key, which is good for this chassis alone: whoever has it can
send logs as the chassis, and is sent its commands, until the chassis is rejected or
forgotten; a new installation does not change it. So it is not for user data, which
whoever may look at tasks can read, nor for a system whose root you do not trust. It
needs the role admin, and is in the audit trail.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			conf, err := c.AgentConfig(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			if conn.output == "json" && file == "" {
				return conn.print(cmd.OutOrStdout(), conf, nil)
			}
			b, err := agentConfigFile(conf)
			if err != nil {
				return err
			}
			if file != "" {
				return writeNew(file, b, 0o600)
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "file to write it to, which must not be there yet, with mode 0600")
	return cmd
}

// agentConfigFile is the file that package agent/host reads.
func agentConfigFile(conf client.AgentConfig) ([]byte, error) {
	b, err := yaml.Marshal(conf)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`# teeth-agent on the installed system of chassis %s. It holds the
# chassis' key: %s, owner root, mode 0600.
%s
builtin_telemetries: [memory, load_avg, disk_usage, temperatures, network]
# tail_logs: [{service: syslog, file: /var/log/syslog}]

# What may be run from afar; without it: anything.
# commands: {allow: ["systemctl status *", "df ..."], internal: [status, version]}
`, conf.ServerID, host.DefaultConfig, b)
	if _, err := host.Parse([]byte(text)); err != nil {
		return nil, fmt.Errorf("the server has sent what makes no configuration: %w", err)
	}
	return []byte(text), nil
}
