package main

import (
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"text/tabwriter"

	"aead.dev/minisign"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/agent/upgrade"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func agentVersionCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "agent-version",
		Short: "Publish versions of the agent for hosts and ramdisks to upgrade to",
		Long: `Publish versions of the agent. Agents on installed hosts (teeth-agent -u, or the
internal command upgrade) and ramdisks (the internal command upgrade URL KEY) ask
GET /api/v1/minion of the boot server for the newest one. They install nothing that
is not signed by the key that they know:

  teeth agent-version keygen release                     # release.key, release.pub
  cp teeth-agent /usr/share/teeth/teeth-agent-amd64-1.3.0 # the folder of --boot-dir
  teeth agent-version sign --version 1.3.0 --key release.key /usr/share/teeth/teeth-agent-amd64-1.3.0
  teeth agent-version add --version 1.3.0 --key release.pub /usr/share/teeth/teeth-agent-amd64-1.3.0

minisign does for sign: minisign -S -t 'version:1.3.0 kind:agent arch:amd64' -m FILE.
A ramdisk (--kind image) is published by its description, teeth-amd64.json, which has
the digests of kernel and initramfs beside it.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		list(&conn, "List versions, in the order in which they were added", (*client.Client).ListAgentVersions, agentVersionRows),
		agentVersionAdd(&conn), agentVersionRemove(&conn), agentVersionSign(), agentVersionKeygen())
	return cmd
}

func agentVersionRows(w *tabwriter.Writer, all []client.AgentVersion) {
	fmt.Fprintln(w, "ID\tVERSION\tKIND\tARCH\tSIGNED\tURL")
	for _, v := range all {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", v.ID, live.Printable(v.Version), v.Kind, dash(v.Arch), yesNo(v.Signature != ""), live.Printable(v.URL))
	}
}

// versionFlags say what a file is.
type versionFlags struct{ version, kind, arch string }

func (v *versionFlags) add(f *pflag.FlagSet) {
	f.StringVar(&v.version, "version", "", "version, as 1.3.0")
	f.StringVar(&v.kind, "kind", upgrade.Agent, "agent (the program) or image (the description of a ramdisk)")
	f.StringVar(&v.arch, "arch", runtime.GOARCH, "architecture that it is for")
}

func (v *versionFlags) check() error {
	if v.version == "" {
		return usagef("--version is needed")
	}
	if v.kind != upgrade.Agent && v.kind != upgrade.Image {
		return usagef("--kind %q: write %s or %s", v.kind, upgrade.Agent, upgrade.Image)
	}
	return nil
}

// machines are the architectures that an ELF file can name, as Go names them.
var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// ofFile reports a program for another machine than --arch says, which has this
// machine's as its default.
func (v *versionFlags) ofFile(file string) error {
	if v.kind != upgrade.Agent {
		return nil
	}
	f, err := elf.Open(file)
	if err != nil {
		return nil // no program that could be told; what cannot be read is said elsewhere
	}
	defer f.Close()
	if is := machines[f.Machine]; is != v.arch {
		return usagef("%s is a program for %s: write --arch %s", file, cmp.Or(is, f.Machine.String()), cmp.Or(is, "ARCH"))
	}
	return nil
}

func agentVersionAdd(conn *connection) *cobra.Command {
	var v versionFlags
	var url, key, signature string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Add a version that was signed",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if err := v.check(); err != nil {
				return err
			}
			if err := v.ofFile(a[0]); err != nil {
				return err
			}
			if key == "" {
				return usagef("--key is needed: what agents would refuse is not published")
			}
			if signature == "" {
				signature = a[0] + ".minisig"
			}
			if url == "" {
				url = "/boot/" + filepath.Base(a[0])
			}
			out, err := published(a[0], signature, key, v)
			if err != nil {
				return err
			}
			out.URL = url
			if out, err = c.AddAgentVersion(cmd.Context(), out); err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), out, func(w *tabwriter.Writer) { agentVersionRows(w, []client.AgentVersion{out}) })
		}),
	}
	f := cmd.Flags()
	v.add(f)
	f.StringVar(&key, "key", "", "file with minisign's public key that agents know")
	f.StringVar(&signature, "signature", "", "file with the signature (default FILE.minisig)")
	f.StringVar(&url, "url", "", "where agents fetch it (default /boot/FILE of the boot server, from the folder of --boot-dir)")
	return cmd
}

// published describes a file, whose signature it checks as an agent does.
func published(file, signature, key string, v versionFlags) (client.AgentVersion, error) {
	out := client.AgentVersion{Version: v.version, Kind: v.kind, Arch: v.arch}
	text, err := os.ReadFile(key)
	if err != nil {
		return out, usageError{err}
	}
	public, err := upgrade.ParseKey(string(text))
	if err != nil {
		return out, usageError{fmt.Errorf("%s: %w", key, err)}
	}
	signed, err := os.ReadFile(signature)
	if err != nil {
		return out, usageError{fmt.Errorf("%w: sign it with `teeth agent-version sign` or minisign", err)}
	}
	f, err := os.Open(file)
	if err != nil {
		return out, usageError{err}
	}
	defer f.Close()
	old, strong := md5.New(), sha256.New() // the original's agents know no better
	if out.Size, err = io.Copy(io.MultiWriter(old, strong), f); err != nil {
		return out, err
	}
	out.MD5, out.SHA256, out.Signature = hex.EncodeToString(old.Sum(nil)), hex.EncodeToString(strong.Sum(nil)), string(signed)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	return out, public.Verify(upgrade.Release{Version: out.Version, Signature: out.Signature, SHA256: out.SHA256}, v.kind, f)
}

func agentVersionRemove(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a version; what has upgraded to it stays as it is",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			id, err := strconv.ParseInt(a[0], 10, 64)
			if err != nil {
				return usagef("%q is not an id, the number that list shows", a[0])
			}
			return c.RemoveAgentVersion(cmd.Context(), id)
		}),
	}
}

func agentVersionSign() *cobra.Command {
	var v versionFlags
	var key, password string
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign a file; the signature is FILE.minisig",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := v.check(); err != nil {
				return err
			}
			if key == "" {
				return usagef("--key is needed")
			}
			if err := v.ofFile(a[0]); err != nil {
				return err
			}
			private, err := privateKey(key, password)
			if err != nil {
				return usageError{err}
			}
			f, err := os.Open(a[0])
			if err != nil {
				return usageError{err}
			}
			defer f.Close()
			r := minisign.NewReader(f)
			if _, err := io.Copy(io.Discard, r); err != nil {
				return err
			}
			signature := r.SignWithComments(private, upgrade.Comment(v.version, v.kind, v.arch), "signature of "+filepath.Base(a[0]))
			return os.WriteFile(a[0]+".minisig", signature, 0o644)
		},
	}
	f := cmd.Flags()
	v.add(f)
	f.StringVar(&key, "key", "", "file with minisign's secret key")
	f.StringVar(&password, "password-file", "", "file with its password; - is standard input")
	return cmd
}

// privateKey reads a key of minisign, which may have a password.
func privateKey(file, password string) (k minisign.PrivateKey, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	if !minisign.IsEncrypted(b) {
		if err = k.UnmarshalText(b); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return k, err
	}
	if password == "" {
		return k, fmt.Errorf("%s has a password: give --password-file", file)
	}
	secret, err := readSecret(os.Stdin, password)
	if err != nil {
		return k, err
	}
	if k, err = minisign.DecryptKey(secret, b); err != nil {
		err = fmt.Errorf("%s: %w: is the password right?", file, err)
	}
	return k, err
}

func agentVersionKeygen() *cobra.Command {
	var password string
	cmd := &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a pair of keys: NAME.key, to be kept secret, and NAME.pub",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			public, private, err := minisign.GenerateKey(nil)
			if err != nil {
				return err
			}
			secret, err := private.MarshalText()
			if password != "" && err == nil {
				var word string
				if word, err = readSecret(os.Stdin, password); err != nil {
					return usageError{err}
				}
				secret, err = minisign.EncryptKey(word, private)
			}
			open, perr := public.MarshalText()
			if err := errors.Join(err, perr); err != nil {
				return err
			}
			for _, f := range []struct {
				name string
				b    []byte
				mode os.FileMode
			}{{a[0] + ".key", secret, 0o600}, {a[0] + ".pub", open, 0o644}} {
				if err := writeNew(f.name, append(f.b, '\n'), f.mode); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "upgrade_key: %s\n", public)
			return nil
		},
	}
	cmd.Flags().StringVar(&password, "password-file", "", "file with a password for the secret key; - is standard input")
	return cmd
}

// writeNew writes a file that must not be there yet.
func writeNew(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
