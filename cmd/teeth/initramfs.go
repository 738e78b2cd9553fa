package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/initramfs"
)

func initramfsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "initramfs",
		Short: "Build the appliance image that a chassis boots",
		RunE:  needSubcommand,
	}
	cmd.AddCommand(initramfsBuild())
	return cmd
}

func initramfsBuild() *cobra.Command {
	var opt initramfs.Options
	var output string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build kernel, initramfs and manifest",
		Long: `Builds the appliance image: teeth-ARCH.cpio.zst with the agent as /init,
vmlinuz-ARCH, and teeth-ARCH.json, which lists what they are made of. The same
source and packages give the same bytes.

Kernel and modules come from Debian's linux-image-ARCH through this machine's
apt, firmware from Debian's firmware packages. Nothing on the system changes:
apt works with lists and a cache of its own below --cache, which also keeps the
version of the kernel until --update.

Where no boot script gives a command line, --uki makes teeth-ARCH.efi for UEFI
(HTTP boot, or EFI/BOOT/BOOTX64.EFI of a disk), and --iso makes teeth-ARCH.iso
for BIOS and UEFI: a CD, virtual media of a BMC, or a USB stick. They need
Debian's xorriso and mtools. --append says where the control plane is; without
it, DHCP does (vendor option 43). A token given there can be read by whoever has
the file.`,
		Example: `  teeth initramfs build --profile metal --out out
  teeth initramfs build --iso --append "teeth.server=10.0.0.1:8081 teeth.ca_sha256=HEX teeth.token=TEXT"
  teeth initramfs build --kernel /srv/my-kernel     # vmlinuz*, lib/modules/VERSION`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usagef("--output %q: choose table or json", output)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			opt.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			start := time.Now()
			m, err := initramfs.Build(cmd.Context(), opt)
			if err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(m)
			}
			return printManifest(cmd.OutOrStdout(), opt.OutDir, m, time.Since(start))
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Profile, "profile", "lab", "hardware to serve: "+strings.Join(initramfs.Profiles(), ", "))
	f.StringVar(&opt.Arch, "arch", "amd64", "architecture")
	f.StringVar(&opt.OutDir, "out", "out", "folder for the results")
	f.StringVar(&opt.CacheDir, "cache", "", "folder that keeps packages and compressed layers (default OUT/cache)")
	f.BoolVar(&opt.Update, "update", false, "look for newer packages than the cache has")
	f.StringVar(&opt.KernelDir, "kernel", "", "folder with a kernel of your own: vmlinuz*, lib/modules/VERSION")
	f.StringVar(&opt.Agent, "agent", "", "agent that is already built (default: build it from --source)")
	f.StringVar(&opt.SourceDir, "source", ".", "folder in the source of Teeth, to build the agent from")
	f.StringVar(&opt.Version, "image-version", buildVersion(), "version to record in the image")
	f.BoolVar(&opt.UKI, "uki", false, "also build a unified kernel image for UEFI")
	f.BoolVar(&opt.ISO, "iso", false, "also build a CD image for BIOS and UEFI")
	f.StringVar(&opt.Append, "append", "", "kernel command line of both, behind the consoles")
	f.BoolVar(&opt.Rescue, "rescue", false, "also build an image with a shell, to load on top")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.BoolVarP(&verbose, "verbose", "v", false, "say how long each step takes")
	return cmd
}

// buildVersion is the version that this program was installed as.
func buildVersion() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok || bi.Main.Version == "" || bi.Main.Version == "(devel)" {
		return "devel"
	}
	return bi.Main.Version
}

func printManifest(out io.Writer, dir string, m *initramfs.Manifest, took time.Duration) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tBYTES\tSHA-256")
	files := []initramfs.File{m.Image, m.Kernel.File}
	for _, f := range []*initramfs.File{m.Rescue, m.UKI, m.ISO} {
		if f != nil {
			files = append(files, *f)
		}
	}
	for _, f := range files {
		fmt.Fprintf(w, "%s\t%d\t%s\n", filepath.Join(dir, f.Name), f.Size, f.SHA256)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "profile %s, kernel %s, %d modules, %d firmware files (%d missing), %s, built in %.1f s\n",
		m.Profile, m.Kernel.Version, len(m.Modules), len(m.Firmware), len(m.FirmwareMissing), m.Agent.GoVersion, took.Seconds())
	return err
}
