package initramfs

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/teeth-metal/teeth/initramfs/uki"
)

// Options say what to build. The zero value builds the lab profile for amd64
// into ./out from the Teeth source around the current directory.
type Options struct {
	Profile string // "lab" (default): what QEMU shows; "metal": real servers
	Arch    string // "amd64", the default and so far the only one
	OutDir  string // where the results go; default "out"

	// CacheDir keeps unpacked packages and compressed layers between builds,
	// and with them the version of the kernel; default OutDir/cache. It is
	// locked while in use.
	CacheDir string
	// Update looks for newer packages than those that the cache holds.
	Update bool

	// KernelDir is a kernel of one's own: it holds vmlinuz* (or boot/vmlinuz*)
	// and lib/modules/VERSION. Empty takes Debian's.
	KernelDir string

	// Agent is an agent built before. Empty builds package ./cmd/teeth-agent
	// (or AgentPackage) of the Teeth module in SourceDir or above.
	Agent        string
	AgentPackage string
	SourceDir    string // default "."

	// Version is the version of Teeth, recorded in the agent (main.version), in
	// etc/os-release and in the manifest; default "devel".
	Version string

	// Rescue also builds an image to load on top: a shell and u-root commands.
	Rescue bool

	// UKI also builds teeth-ARCH.efi, a unified kernel image for UEFI, and ISO
	// teeth-ARCH.iso, a CD image for BIOS and UEFI. Both boot with nobody to
	// give them a command line, so it is in them.
	UKI, ISO bool
	// Append is what that command line has behind the consoles: the server, the
	// pin of its CA, a token. It is in no other result, the manifest included.
	Append string

	Log *slog.Logger // nil is silent
}

func (o Options) withDefaults() (Options, error) {
	def := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	def(&o.Profile, "lab")
	def(&o.Arch, "amd64")
	def(&o.OutDir, "out")
	def(&o.CacheDir, filepath.Join(o.OutDir, "cache"))
	def(&o.AgentPackage, "./cmd/teeth-agent")
	def(&o.SourceDir, ".")
	def(&o.Version, "devel")
	if o.Append != "" && !o.UKI && !o.ISO {
		return o, errors.New("a kernel command line is for the unified kernel image and the CD: ask for one of them")
	}
	if err := uki.CheckCmdline(o.cmdline()); err != nil {
		return o, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Arch != "amd64" {
		return o, fmt.Errorf("architecture %q: only amd64 can be built so far", o.Arch)
	}
	for _, r := range o.Version {
		if r <= ' ' || r > '~' || r == '\'' || r == '"' || r == '\\' || r == '$' || r == '`' {
			return o, errors.New("version: only printable ASCII without spaces, quotes, $ or backslashes")
		}
	}
	for _, dir := range []*string{&o.OutDir, &o.CacheDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return o, err
		}
		*dir = abs
	}
	return o, nil
}

// The names of the results in Options.OutDir.
func (o Options) imageName() string    { return "teeth-" + o.Arch + ".cpio.zst" }
func (o Options) kernelName() string   { return "vmlinuz-" + o.Arch }
func (o Options) manifestName() string { return "teeth-" + o.Arch + ".json" }
func (o Options) rescueName() string   { return "teeth-rescue-" + o.Arch + ".cpio.zst" }
func (o Options) ukiName() string      { return "teeth-" + o.Arch + ".efi" }
func (o Options) isoName() string      { return "teeth-" + o.Arch + ".iso" }

// cmdline is the kernel's command line in what boots on its own. The consoles
// are those of the network's boot script.
func (o Options) cmdline() string {
	return strings.TrimSpace("console=tty0 console=ttyS0 " + o.Append)
}
