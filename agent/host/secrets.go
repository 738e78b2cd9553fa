package host

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"

	"gopkg.in/yaml.v3"
)

// masked stands for a secret in what get-config says. set-config takes it for the
// secret that is there now.
const masked = "(masked)"

// secretKey is the keys whose values are secrets, in any part of the file. The key of
// upgrades is a public one.
var secretKey = regexp.MustCompile(`(?i)(_key|^key|secret|token|password)$`)

// mask replaces the secrets in a tree of YAML.
func mask(n *yaml.Node) {
	eachSecret(n, "", func(_ string, v *yaml.Node) { v.SetString(masked) })
	eachText(n, func(v *yaml.Node) {
		if u, err := url.Parse(v.Value); err == nil && u.User != nil {
			if _, has := u.User.Password(); has {
				v.SetString(u.Redacted())
			}
		}
	})
}

// unmask puts the secrets of the old tree where the new one has masks.
func unmask(n, old *yaml.Node) error {
	known := map[string]string{}
	eachSecret(old, "", func(path string, v *yaml.Node) { known[path] = v.Value })
	var missing []string
	eachSecret(n, "", func(path string, v *yaml.Node) {
		if v.Value != masked {
			return
		}
		if s, ok := known[path]; ok {
			v.SetString(s)
			return
		}
		missing = append(missing, path)
	})
	if len(missing) > 0 {
		return fmt.Errorf("%s stands for a secret that is not in the present configuration: %v", masked, missing)
	}
	return nil
}

// eachSecret calls f with every text that is a secret, and where it is.
func eachSecret(n *yaml.Node, path string, f func(path string, v *yaml.Node)) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			at := path + "/" + key.Value
			if v.Kind == yaml.AliasNode && v.Alias.Kind == yaml.ScalarNode { // others may lead in a circle
				v = v.Alias
			}
			if v.Kind == yaml.ScalarNode && key.Value != "upgrade_key" && secretKey.MatchString(key.Value) {
				f(at, v)
				continue
			}
			eachSecret(v, at, f)
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for i, v := range n.Content {
			eachSecret(v, fmt.Sprintf("%s/%d", path, i), f)
		}
	}
}

func eachText(n *yaml.Node, f func(v *yaml.Node)) {
	if n.Kind == yaml.ScalarNode {
		f(n)
		return
	}
	for _, v := range n.Content {
		eachText(v, f)
	}
}

// shown is a configuration without its secrets.
func shown(b []byte) (any, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, err
	}
	mask(&n)
	var v any
	return v, n.Decode(&v)
}

// complete is a new configuration with the secrets of the present one where it has
// masks. Comments stay.
func complete(b, present []byte) ([]byte, error) {
	var n, old yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, err
	}
	if n.Kind == 0 {
		return nil, errors.New("the configuration is empty")
	}
	if err := yaml.Unmarshal(present, &old); err != nil {
		old = yaml.Node{} // then it has no secrets that could be read
	}
	if err := unmask(&n, &old); err != nil {
		return nil, err
	}
	return yaml.Marshal(&n)
}

// replace writes a configuration in one step, and keeps the one before as .before.
func replace(path string, b []byte) error {
	before, err := readConfig(path)
	if err != nil {
		return err
	}
	mode := os.FileMode(0o600)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	for _, f := range []struct {
		path string
		b    []byte
	}{{path + ".before", before}, {path, b}} {
		if err := writeFile(f.path, f.b, mode); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return nil
}

func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
