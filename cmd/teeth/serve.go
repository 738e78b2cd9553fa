package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane"
)

func serveCommand() *cobra.Command {
	var c controlplane.Config
	var insecure bool
	var config string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: `Run the control plane: agents over TLS, the REST interface for operators, and the
boot script, appliance image and OS images over plain HTTP. All state is in the
data folder; stop it, or kill it, at any time.

With --db postgres://… several servers share one estate: chassis may connect to any,
and when one is lost the others go on with its work. Start the first, copy ca.pem,
secrets.key, enrol.token and operator.token from its data folder to those of the
others, and start them. Keep the password out of --db: in $PGPASSFILE (~/.pgpass),
$PGPASSWORD, or the file of --config.

At first start it makes its own certificate authority and prints the SHA-256 of
its certificate, which chassis pin. The address of the boot script for iPXE is
http://HOST:8082/boot/ipxe.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := configure(cmd, config); err != nil {
				return err
			}
			if insecure != (c.InsecureAgents != "" || c.Minion.Insecure != "") {
				return usagef("--insecure and --insecure-agents or --insecure-minion go together: what is said on those addresses is not encrypted")
			}
			if c.Database == "" { // no default of the flag: help would show its password
				c.Database = os.Getenv("TEETH_DB")
			}
			c.Version = version
			messagesDefaults(&c.Messages)
			backboneDefaults(&c.Backbone)
			minionDefaults(&c.Minion)
			c.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: controlplane.LowestLevel}))
			c.Ready = func(i controlplane.Info) {
				fmt.Fprintf(cmd.OutOrStdout(), "agents %s\nboot   http://%s/boot/ipxe\napi    https://%s\npin    teeth.ca_sha256=%s\nclient %s\n",
					i.Agents, i.Boot, i.API, i.CASHA256, i.ClientFile)
			}
			return controlplane.Serve(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, configFlag, "", "YAML file of settings, whose keys are the names of these flags; the command line wins")
	f.StringVar(&c.DataDir, "data", defaultData, "folder of all state")
	f.StringVar(&c.Database, "db", "", "postgres://USER@HOST/DATABASE?sslmode=verify-full, which several servers may share, or sqlite:PATH (default $TEETH_DB, or teeth.db in the data folder)")
	f.StringVar(&c.BootDir, "boot-dir", "out", "folder with the appliance image, as teeth initramfs build wrote it")
	f.StringVar(&c.Agents, "agents", controlplane.DefaultAgents, "address for agents, TLS")
	f.StringVar(&c.API, "api", controlplane.DefaultAPI, "address for operators, HTTPS")
	f.StringVar(&c.Boot, "boot", controlplane.DefaultBoot, "address for booting chassis, plain HTTP, read-only")
	f.StringVar(&c.AdvertiseURL, "advertise", "", "http://HOST:PORT of the boot address as chassis see it (default: the host they reached)")
	f.StringVar(&c.KernelArgs, "kernel-args", "", "further kernel parameters for chassis")
	f.StringSliceVar(&c.Names, "name", nil, "further host name or address of the certificate (repeatable)")
	f.Int64Var(&c.MaxImageSize, "max-image-size", 0, "largest image taken, in bytes")
	f.BoolVar(&insecure, "insecure", false, "allow --insecure-agents and --insecure-minion")
	f.StringVar(&c.InsecureAgents, "insecure-agents", "", "address for agents over plain TCP without token: the original agent's only way in")
	networkFlags(f, &c.Network)
	enrolmentFlags(f, &c.Enrolment)
	messagesFlags(f, &c.Messages)
	hardwareFlags(f, &c.Hardware)
	operationsFlags(f, &c.Operations)
	backboneFlags(f, &c.Backbone)
	minionFlags(f, &c.Minion)
	return cmd
}
