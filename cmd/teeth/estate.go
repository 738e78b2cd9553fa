package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func serverCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "server",
		Short: "List the servers that share the database",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List servers: which live, and how many chassis are connected to each",
		Long: `List the servers that share the database, the longest running first. One that was not
heard of for 20 s is gone: its chassis connect to the others, which go on with its work.
It stays in the list for a week.`,
		Args: args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.ListServers(cmd.Context())
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NAME\tID\tVERSION\tSTATE\tCHASSIS\tSTARTED\tSEEN")
				for _, s := range all {
					state := "alive"
					if !s.Alive {
						state = "gone"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s ago\t%s ago\n", live.Printable(s.Name), s.ID, live.Printable(s.Version), state,
						s.Sessions, age(s.Started), age(s.Seen))
				}
			})
		}),
	})
	return cmd
}

func settingCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "setting",
		Short: "List, show and change what all servers share of their configuration",
		Long: `List, show and change what all servers share of their configuration. A change takes
effect within 2 s, without a restart, and is in the audit trail. It takes an admin.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	show := func(cmd *cobra.Command, v any, all ...client.Setting) error {
		return conn.print(cmd.OutOrStdout(), v, func(w *tabwriter.Writer) { settingRows(w, all) })
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List settings, their values and what they are",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.ListSettings(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, all, all...)
		}),
	}, &cobra.Command{
		Use:   "get KEY",
		Short: "Show the value of a setting, and nothing else",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			s, err := c.Setting(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), s, func(w *tabwriter.Writer) { fmt.Fprintln(w, settingText(s.Value)) })
		}),
	}, &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Change a setting, on all servers",
		Args:  args(cobra.ExactArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			old, err := c.Setting(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			value, err := settingValue(old, a[1])
			if err != nil {
				return err
			}
			s, err := c.SetSetting(cmd.Context(), a[0], value)
			if err != nil {
				return err
			}
			return show(cmd, s, s)
		}),
	}, &cobra.Command{
		Use:   "reset KEY",
		Short: "Return a setting to its default",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			s, err := c.ResetSetting(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return show(cmd, s, s)
		}),
	})
	return cmd
}

// settingValue makes JSON of what was typed. Whether that is a text is known from
// the default, so that a text which looks like a number needs no quotes.
func settingValue(s client.Setting, typed string) (json.RawMessage, error) {
	var text string
	if json.Unmarshal(s.Default, &text) == nil {
		return json.Marshal(typed)
	}
	if !json.Valid([]byte(typed)) {
		return nil, usagef("setting %s: %.80q: write a value like %s", s.Key, typed, s.Default)
	}
	return json.RawMessage(typed), nil
}

// settingText is a value without quotes.
func settingText(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) != nil {
		text = string(value)
	}
	return live.Printable(text)
}

func settingRows(w *tabwriter.Writer, all []client.Setting) {
	fmt.Fprintln(w, "KEY\tVALUE\tDEFAULT\tSET BY\tIS")
	for _, s := range all {
		by := "-"
		if s.By != "" {
			by = s.By
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Key, settingText(s.Value), settingText(s.Default), live.Printable(by), live.Printable(s.About))
	}
}
