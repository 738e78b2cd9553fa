package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
)

// completionTime bounds how long a press of the tab key may take.
const completionTime = 2 * time.Second

// maxCompletions bounds what a shell is given to choose from.
const maxCompletions = 2000

// names are what the control plane knows, by the word that stands for it in the
// usage of a command. Each is a name, or a name, a tab and what it is.
var names = map[string]func(context.Context, *client.Client) ([]string, error){
	"CHASSIS": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListChassis(ctx)
		return each(all, func(ch client.Chassis) []string {
			list := []string{ch.ID + "\t" + strings.TrimSpace(ch.State+" "+ch.Serial)}
			for _, other := range []string{ch.Name, ch.Serial, ch.MAC} {
				if other != "" {
					list = append(list, other+"\t"+ch.State)
				}
			}
			return list
		}), err
	},
	"IMAGE": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListImages(ctx)
		return each(all, func(i client.Image) []string { return []string{i.Name + "\t" + i.Format} }), err
	},
	"TASK": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListTasks(ctx, "", 100)
		return each(all, func(t client.Task) []string { return []string{t.ID + "\t" + t.State} }), err
	},
	"GRAPH": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListGraphs(ctx, "", false, 100)
		return each(all, func(g client.Graph) []string { return []string{g.ID + "\t" + g.Name + ", " + g.State} }), err
	},
	"graph NAME": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.GraphLibrary(ctx)
		return each(all, func(g client.GraphDefinition) []string { return []string{g.Name} }), err
	},
	"COMMAND": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListCommands(ctx, "", 100)
		return each(all, func(c client.Command) []string { return []string{c.ID + "\t" + strings.Join(c.Argv, " ")} }), err
	},
	"SPEC": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListSpecs(ctx)
		return each(all, func(s client.Spec) []string { return []string{s.Name} }), err
	},
	"USER": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListUsers(ctx)
		return each(all, func(u client.User) []string { return []string{u.Name + "\t" + u.Role} }), err
	},
	"KEY": func(ctx context.Context, c *client.Client) ([]string, error) {
		all, err := c.ListSettings(ctx)
		return each(all, func(s client.Setting) []string { return []string{s.Key + "\t" + s.About} }), err
	},
	"ROLE": func(context.Context, *client.Client) ([]string, error) {
		return []string{"admin", "operator", "viewer"}, nil
	},
}

// completedFlags are flags whose value is such a name.
var completedFlags = map[string]string{"chassis": "CHASSIS", "image": "IMAGE", "user": "USER", "role": "ROLE", "spec-name": "SPEC"}

func each[T any](all []T, of func(T) []string) []string {
	var list []string
	for _, v := range all {
		list = append(list, of(v)...)
	}
	return list
}

// completeNames gives every command below cmd that talks to a control plane what
// completes its arguments, by the words of its usage: CHASSIS is one of those there are.
func completeNames(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		completeNames(sub)
	}
	if cmd.Flag("client") == nil {
		return
	}
	if words := strings.Fields(cmd.Use)[1:]; len(words) > 0 && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, typed []string, begun string) ([]string, cobra.ShellCompDirective) {
			i := len(typed)
			if last := len(words) - 1; strings.HasSuffix(words[last], "...") {
				i = min(i, last)
			}
			if i >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			word, _, _ := strings.Cut(strings.Trim(words[i], "[]."), "|")
			if names[cmd.Parent().Name()+" "+word] != nil {
				word = cmd.Parent().Name() + " " + word
			}
			return complete(cmd, word, begun)
		}
	}
	for flag, word := range completedFlags {
		if cmd.LocalNonPersistentFlags().Lookup(flag) != nil {
			// The error is of a flag that has a function already, which is as well.
			_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
				return complete(cmd, word, begun)
			})
		}
	}
}

// complete returns the names that begin with what was typed. Whatever goes wrong, a
// shell gets none, and no error in the middle of a line.
func complete(cmd *cobra.Command, word, begun string) ([]string, cobra.ShellCompDirective) {
	switch {
	case strings.HasPrefix(word, "FILE"):
		return nil, cobra.ShellCompDirectiveDefault
	case names[word] == nil:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	conf, err := client.Load(cmd.Flag("client").Value.String())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := client.New(conf)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTime)
	defer cancel()
	all, err := names[word](ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, name := range all {
		if !strings.HasPrefix(name, begun) || strings.ContainsFunc(name, unfit) || len(list) >= maxCompletions {
			continue
		}
		list = append(list, name)
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// unfit are characters that a name from a chassis' firmware might have and a shell
// must not get. The tab stands before the description.
func unfit(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r > '~' }
