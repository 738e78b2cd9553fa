package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/backup"
	"github.com/teeth-metal/teeth/controlplane/client"
)

func backupCommand() *cobra.Command {
	var conn connection
	var images bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back up a running control plane",
		Long: `Back up a running control plane: its database as it is at one moment, its keys and
tokens and, with --images, the OS images. FILE is - for the standard output.

Keep it as safe as the data directory: who has it can pass for the control plane.
FILE appears, mode 0600, when the backup is whole and verified. A PostgreSQL database
is not part of it: use pg_dump. Nor are logs, telemetry and commands, which are kept
in records.db of the data folder: what teeth app set has asked for, and the keys by
which chassis send them, are.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			m, err := saveBackup(cmd, c, a[0], images)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d files, database: %s\n", len(m.Files), m.Database)
			if m.Records != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "logs, telemetry and commands are not part of it: they are %s\n", m.Records)
			}
			return nil
		}),
	}
	conn.addFlags(cmd)
	cmd.Flags().BoolVar(&images, "images", false, "with the OS images")
	return cmd
}

func saveBackup(cmd *cobra.Command, c *client.Client, path string, images bool) (m backup.Manifest, err error) {
	if path == "-" {
		return fetchBackup(cmd.Context(), c, cmd.OutOrStdout(), images)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return m, usageError{err}
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	m, err = fetchBackup(cmd.Context(), c, f, images)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return m, err
	}
	return m, os.Rename(f.Name(), path)
}

// fetchBackup writes a backup to w and verifies it on the way.
func fetchBackup(ctx context.Context, c *client.Client, w io.Writer, images bool) (backup.Manifest, error) {
	r, pipe := io.Pipe()
	type verdict struct {
		m   backup.Manifest
		err error
	}
	checked := make(chan verdict, 1)
	go func() {
		m, err := backup.Check(ctx, r)
		io.Copy(io.Discard, r) // what is left must not hold up the download
		checked <- verdict{m, err}
	}()
	err := c.Backup(ctx, io.MultiWriter(w, pipe), images)
	pipe.CloseWithError(err) // nil is the end
	v := <-checked
	if err != nil {
		return v.m, err
	}
	return v.m, v.err
}

func restoreCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "restore FILE --data FOLDER",
		Short: "Make a control plane's data folder from a backup",
		Long: `Make a control plane's data folder from a backup, for teeth serve --data FOLDER. The
folder must be empty or absent, so that nothing is written over; it gets its
contents when the backup has been found whole. FILE is - for the standard input.

Chassis go on trusting the control plane, since its certificate authority is the same.
Do not start it while the one that the backup is of still runs.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := cmd.InOrStdin()
			if a[0] != "-" {
				f, err := os.Open(a[0])
				if err != nil {
					return usageError{err}
				}
				defer f.Close()
				in = f
			}
			m, err := backup.Restore(cmd.Context(), in, dir)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "restored %d files of %s to %s\n", len(m.Files), m.Created.Local().Format("2006-01-02 15:04:05"), dir)
			if m.Database != "sqlite" {
				fmt.Fprintf(out, "the database is not part of it: %s\n", m.Database)
			}
			if m.Records != "" {
				fmt.Fprintln(out, "logs, telemetry and commands are not part of it: commands that waited for a chassis will not run")
			}
			if !m.Images {
				fmt.Fprintln(out, "OS images are not part of it: add those that teeth image list shows anew")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data", defaultData, "folder that is to hold all state")
	return cmd
}
