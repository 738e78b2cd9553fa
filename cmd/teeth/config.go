package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

const configFlag = "config"

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// configure sets the flags that a YAML file names, but for those that are on the
// command line. A key is a flag's name, a value is what the flag takes, or a list
// of that where the flag may be repeated. A key that is no flag is an error: a
// setting that was misspelt must not be ignored.
func configure(cmd *cobra.Command, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return usageError{fmt.Errorf("configuration: %w", err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("larger than %d bytes", maxConfig)
	}
	if err == nil {
		err = setFlags(cmd.Flags(), b)
	}
	if err != nil {
		return usageError{fmt.Errorf("configuration %s: %w", path, err)}
	}
	return nil
}

func setFlags(flags *pflag.FlagSet, b []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return err
	}
	if len(doc.Content) == 0 {
		return nil // comments only
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want lines of the form NAME: VALUE", root.Line)
	}
	typed := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { typed[f.Name] = true })
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := key.Value
		flag := flags.Lookup(name)
		switch {
		case flag == nil || name == configFlag || name == "help":
			return fmt.Errorf("line %d: %q is no setting; teeth serve --help lists them", key.Line, name)
		case seen[name]:
			return fmt.Errorf("line %d: %s is there twice", key.Line, name)
		}
		seen[name] = true
		if typed[name] {
			continue
		}
		if err := setFlag(flag, value); err != nil {
			return fmt.Errorf("line %d: %s: %w", value.Line, name, err)
		}
	}
	return nil
}

func setFlag(flag *pflag.Flag, value *yaml.Node) error {
	for value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	scalar := func(n *yaml.Node) (string, error) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return "", errors.New("want a value")
		}
		return n.Value, nil
	}
	if value.Kind == yaml.SequenceNode {
		if _, many := flag.Value.(pflag.SliceValue); !many {
			return errors.New("want one value, not a list")
		}
		var all []string
		for _, n := range value.Content {
			v, err := scalar(n)
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		flag.Changed = true
		return flag.Value.(pflag.SliceValue).Replace(all)
	}
	v, err := scalar(value)
	if err != nil {
		return err
	}
	if err := flag.Value.Set(v); err != nil {
		return fmt.Errorf("%q: %w", v, err)
	}
	flag.Changed = true
	return nil
}
