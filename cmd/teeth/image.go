package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func imageCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{Use: "image", Short: "Add, list and remove OS images", RunE: needSubcommand}
	conn.addFlags(cmd)
	cmd.AddCommand(
		imageAdd(&conn),
		list(&conn, "List images", (*client.Client).ListImages, imageRows),
		conn.act("remove IMAGE", "Delete an image that no unfinished task needs", (*client.Client).RemoveImage),
	)
	return cmd
}

func imageAdd(conn *connection) *cobra.Command {
	var in client.NewImage
	cmd := &cobra.Command{
		Use:   "add FILE|URL",
		Short: "Upload an image, or have the control plane fetch it",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			source := a[0]
			u, err := url.Parse(source)
			remote := err == nil && (u.Scheme == "http" || u.Scheme == "https")
			if err := describeImage(&in, source); err != nil {
				return err
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			var img client.Image
			if remote {
				img, err = c.FetchImage(cmd.Context(), in, source)
			} else {
				img, err = upload(cmd, c, in, source)
			}
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), img, func(w *tabwriter.Writer) { imageRows(w, []client.Image{img}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Name, "name", "", "name (default: the file's without its ending)")
	f.StringVar(&in.Format, "format", "", "raw, raw.gz, raw.zst, raw.xz or qcow2 (default: by the file's ending)")
	f.StringVar(&in.SHA256, "sha256", "", "refuse a file with another SHA-256 digest")
	return cmd
}

// formats are the endings of file names, longest first where one ends another.
var formats = []struct{ ending, format string }{
	{".raw.gz", "raw.gz"}, {".raw.zst", "raw.zst"}, {".raw.xz", "raw.xz"},
	{".img.gz", "raw.gz"}, {".img.zst", "raw.zst"}, {".img.xz", "raw.xz"},
	{".gz", "raw.gz"}, {".zst", "raw.zst"}, {".xz", "raw.xz"},
	{".raw", "raw"}, {".img", "raw"}, {".qcow2", "qcow2"},
}

func describeImage(in *client.NewImage, source string) error {
	base := filepath.Base(strings.SplitN(source, "?", 2)[0])
	stem := base
	for _, f := range formats {
		if s, ok := strings.CutSuffix(base, f.ending); ok {
			stem = s
			if in.Format == "" {
				in.Format = f.format
			}
			break
		}
	}
	if in.Format == "" {
		return usagef("%s: its ending does not tell the format; give --format", source)
	}
	if in.Name == "" {
		in.Name = stem
	}
	return nil
}

func upload(cmd *cobra.Command, c *client.Client, in client.NewImage, name string) (client.Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return client.Image{}, usageError{err}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return client.Image{}, err
	}
	if !st.Mode().IsRegular() {
		return client.Image{}, usagef("%s is not a plain file", name)
	}
	return c.UploadImage(cmd.Context(), in, f, st.Size())
}

func imageRows(w *tabwriter.Writer, all []client.Image) {
	fmt.Fprintln(w, "ID\tNAME\tFORMAT\tBYTES\tSHA-256")
	for _, img := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", img.ID, img.Name, img.Format, img.Size, img.SHA256)
	}
}
