package command

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/wire/minion"
)

// Policy is what servers may have carried out. Its zero value is that of the
// ramdisk: everything for a server that has proved itself, and internal status and
// version for one that has not.
type Policy struct {
	// Allow, if not nil, is what programs may be started, and with which arguments. A
	// shell, and variables for the environment, are then refused: they could start
	// anything.
	Allow []Pattern `yaml:"allow"`
	// Internal, if not nil, is the internal commands that are carried out.
	Internal []string `yaml:"internal"`
	// Off refuses every program.
	Off bool `yaml:"off"`
	// Plain makes all this hold for servers that have not proved themselves, too:
	// originals, which speak no TLS. Whoever is on the network can then run what the
	// policy allows.
	Plain bool `yaml:"plain"`
}

// UnmarshalYAML implements yaml.Unmarshaler. What is misspelt or left empty is an
// error here: it would allow everything.
func (p *Policy) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			switch key.Value {
			case "allow", "internal", "off", "plain":
			default:
				return fmt.Errorf("line %d: commands have no %.40q: want allow, internal, off or plain", key.Line, key.Value)
			}
			if v.ShortTag() == "!!null" {
				return fmt.Errorf("line %d: %s of the commands is empty: write [] for none, or leave it out", key.Line, key.Value)
			}
		}
	}
	type plain Policy
	return n.Decode((*plain)(p))
}

// Restricts reports whether not every program may be started.
func (p Policy) Restricts() bool { return p.Off || p.Allow != nil }

// harmless is what anybody may ask.
var harmless = []string{"status", "version"}

// Pattern is what a program and its arguments look like: one glob (path.Match,
// where * and ? match no slash) for each, and "..." at the end for any more. In a
// configuration it is a list, or a line that is split at blanks.
type Pattern []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Pattern) UnmarshalYAML(n *yaml.Node) error {
	var words []string
	if n.Kind == yaml.ScalarNode {
		words = strings.Fields(n.Value)
	} else if err := n.Decode(&words); err != nil {
		return err
	}
	q := Pattern(words)
	if err := q.check(); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*p = q
	return nil
}

func (p Pattern) check() error {
	if len(p) == 0 {
		return errors.New("a pattern of commands is empty: name a program")
	}
	for i, w := range p {
		if _, err := path.Match(w, ""); err != nil {
			return fmt.Errorf("pattern %q: %q: %w", strings.Join(p, " "), w, err)
		}
		if w == "..." && (i == 0 || i != len(p)-1) {
			return fmt.Errorf("pattern %q: ... stands for further arguments, at the end", strings.Join(p, " "))
		}
	}
	return nil
}

// Match reports whether argv looks like that.
func (p Pattern) Match(argv []string) bool {
	words, open := p, false
	if n := len(p); n > 0 && p[n-1] == "..." {
		words, open = p[:n-1], true
	}
	if len(argv) < len(words) || len(argv) > len(words) && !open || len(words) == 0 {
		return false
	}
	for i, w := range words {
		if ok, err := path.Match(w, argv[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

// check returns why a command is not carried out, nil if it is.
func (p Policy) check(c command, from Peer) error {
	untrusted := !from.Trusted && !p.Plain
	if c.kind == minion.Internal {
		switch {
		case untrusted && !slices.Contains(harmless, c.argv[0]):
			return fmt.Errorf("refused by policy: over plain TCP only internal %s", strings.Join(harmless, " and "))
		case p.Internal != nil && !slices.Contains(p.Internal, c.argv[0]):
			return fmt.Errorf("refused by policy: internal %.40q is not among its internal commands", c.argv[0])
		}
		return nil
	}
	switch {
	case untrusted:
		return errors.New("refused by policy: no programs are run for a server on plain TCP, which anybody can pretend to be; use TLS, or set plain in the policy")
	case p.Off:
		return errors.New("refused by policy: no programs are run here")
	case p.Allow == nil:
		return nil
	case c.shell:
		return errors.New("refused by policy: no shell, as only certain programs are allowed")
	case len(c.env) > 0:
		return errors.New("refused by policy: no environment variables, as only certain programs are allowed")
	}
	for _, pattern := range p.Allow {
		if pattern.Match(c.argv) {
			return nil
		}
	}
	return fmt.Errorf("refused by policy: %.80q with these arguments is not among what it allows", c.argv[0])
}
