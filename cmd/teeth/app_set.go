package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/backbone"
)

// maxAppFile bounds files of apps and configurations, in bytes.
const maxAppFile = backbone.MaxBody

// consentFlags are what an operator has to allow.
func consentFlags(f *pflag.FlagSet, in *client.AppChange) {
	f.BoolVar(&in.Replace, "replace", false, "remove apps that the host has and nobody here has asked for, when it is told for the first time")
	f.BoolVar(&in.Unseen, "unseen", false, "CHASSIS may be a host id that has never been heard of")
}

// appFlags are an app's spec on the command line.
type appFlags struct {
	url, version, digest, configFile, manifest string
	size, memory, pids                         int64
	cpus, rank                                 float64
	running, stopped                           bool
	config, services                           []string
}

func appSet(conn *connection) *cobra.Command {
	var in client.AppChange
	var wait waiting
	var a appFlags
	cmd := &cobra.Command{
		Use:   "set CHASSIS NAME",
		Short: "Want an app of a host, or want it otherwise",
		Long: appHelp + `
Of an app that is desired already, what is not given stays as it is.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, names []string) error {
			given := cmd.Flags().Changed
			h, err := c.AppHost(cmd.Context(), names[0])
			if err != nil && !(in.Unseen && errors.Is(err, client.ErrNotFound)) {
				return err
			}
			spec, err := desiredApp(h, names[1])
			if err != nil {
				return err
			}
			if err := a.apply(&spec, given); err != nil {
				return err
			}
			in.Put, in.Revision = map[string]backbone.App{names[1]: spec}, h.Revision // it is made from that
			if err := backbone.CheckApps(in.Put); err != nil {
				return usageError{err}
			}
			if h, err = c.ChangeApps(cmd.Context(), names[0], in); err != nil {
				return err
			}
			return wait.finish(cmd, conn, c, h)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&a.url, "url", "", "http(s) URL of the package: rpm, deb or tar")
	f.StringVar(&a.version, "version", "", "version of the package (default: from the file's name)")
	f.StringVar(&a.digest, "digest", "", "sha256:… of the package; it is not taken if it has another")
	f.Int64Var(&a.size, "size", 0, "bytes of the package")
	f.BoolVar(&a.running, "running", false, "the app is to run (default for a new one)")
	f.BoolVar(&a.stopped, "stopped", false, "the app is not to run")
	f.StringArrayVar(&a.services, "service", nil, "SERVICE=running or SERVICE=stopped, of an app with several (repeatable)")
	f.StringArrayVar(&a.config, "config", nil, "SECTION.KEY=VALUE, where VALUE is JSON or a text (repeatable)")
	f.StringVar(&a.configFile, "config-file", "", "JSON or YAML file of the whole configuration; - is standard input")
	f.Float64Var(&a.rank, "rank", 0, "order of installation, ascending")
	f.StringVar(&a.manifest, "manifest", "", "JSON or YAML file that says how to run a package without a manifest of its own")
	f.Int64Var(&a.memory, "memory", 0, "bytes of memory it may use")
	f.Float64Var(&a.cpus, "cpus", 0, "processors it may use")
	f.Int64Var(&a.pids, "pids", 0, "processes and threads it may have")
	consentFlags(f, &in)
	wait.add(f)
	return cmd
}

// desiredApp is the spec that is desired of a host; an empty one if there is none.
func desiredApp(h client.AppHost, name string) (backbone.App, error) {
	if len(h.DesiredApps) == 0 {
		return backbone.App{}, nil
	}
	apps, err := backbone.ParseApps(h.DesiredApps)
	return apps[name], err
}

// apply changes what the command line gives.
func (a appFlags) apply(spec *backbone.App, given func(string) bool) error {
	fresh := spec.Version == ""
	if given("url") && a.url != spec.URL {
		// The digest, size and version were of another file.
		spec.URL, spec.PkgInfo, spec.Digest, spec.Size = a.url, nil, "", 0
		if v := versionOf(a.url); v != "" {
			spec.Version = v
		}
	}
	if given("version") {
		spec.Version = a.version
	}
	if spec.Version == "" {
		return usagef("--version is missing: the name of the file does not tell it")
	}
	if given("digest") {
		spec.Digest = a.digest
	}
	if given("size") {
		spec.Size = a.size
	}
	if given("rank") {
		spec.Rank = a.rank
	}
	if err := a.states(spec, fresh); err != nil {
		return err
	}
	if given("memory") || given("cpus") || given("pids") {
		l := backbone.Limits{}
		if spec.Limits != nil {
			l = *spec.Limits
		}
		for name, set := range map[string]func(){"memory": func() { l.Memory = a.memory }, "cpus": func() { l.CPUs = a.cpus }, "pids": func() { l.PIDs = a.pids }} {
			if given(name) {
				set()
			}
		}
		spec.Limits = &l
	}
	if a.manifest != "" {
		b, err := objectFile(a.manifest)
		if err != nil {
			return err
		}
		spec.Manifest = b
	}
	return a.configure(spec)
}

// states sets what is to run.
func (a appFlags) states(spec *backbone.App, fresh bool) error {
	switch {
	case a.running && a.stopped, (a.running || a.stopped) && len(a.services) > 0:
		return usagef("--running, --stopped and --service: give one of them")
	case a.running || a.stopped:
		spec.Running, spec.ServiceStates = &a.running, nil
	case len(a.services) > 0:
		if spec.ServiceStates == nil {
			spec.ServiceStates = map[string]bool{}
		}
		for _, s := range a.services {
			name, state, _ := strings.Cut(s, "=")
			if name == "" || state != "running" && state != "stopped" {
				return usagef("--service %q: want SERVICE=running or SERVICE=stopped", s)
			}
			spec.ServiceStates[name] = state == "running"
		}
		spec.Running = nil
	case fresh:
		on := true
		spec.Running = &on
	}
	return nil
}

// configure sets the app's configuration.
func (a appFlags) configure(spec *backbone.App) error {
	if a.configFile != "" {
		b, err := objectFile(a.configFile)
		if err != nil {
			return err
		}
		spec.Config = b
	}
	config := map[string]any{}
	if spec.Config != nil {
		dec := json.NewDecoder(bytes.NewReader(spec.Config))
		dec.UseNumber()
		if err := dec.Decode(&config); err != nil {
			return fmt.Errorf("the configuration there is: %w", err)
		}
	}
	for _, c := range a.config {
		key, value, ok := strings.Cut(c, "=")
		if !ok || key == "" {
			return usagef("--config %q: want SECTION.KEY=VALUE", c)
		}
		if err := setKey(config, strings.Split(key, "."), value); err != nil {
			return err
		}
	}
	b, err := json.Marshal(config)
	spec.Config = b
	return err
}

// setKey sets a value within sections. What is not JSON is a text.
func setKey(config map[string]any, keys []string, value string) error {
	for i, key := range keys {
		if key == "" {
			return usagef("--config %s: a key is empty", strings.Join(keys, "."))
		}
		if i == len(keys)-1 {
			break
		}
		section, ok := config[key].(map[string]any)
		if !ok {
			if config[key] != nil {
				return usagef("--config %s: %s is a value, not a section", strings.Join(keys, "."), strings.Join(keys[:i+1], "."))
			}
			section = map[string]any{}
			config[key] = section
		}
		config = section
	}
	var v any = value
	if json.Valid([]byte(value)) {
		v = json.RawMessage(value)
	}
	config[keys[len(keys)-1]] = v
	return nil
}

// objectFile reads a JSON or YAML file that holds an object, as JSON.
func objectFile(name string) (json.RawMessage, error) {
	var r io.Reader = os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxAppFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxAppFile {
		return nil, usagef("%s: more than %d bytes", name, maxAppFile)
	}
	var object map[string]any
	if json.Valid(b) { // YAML would lose digits of its numbers
		if json.Unmarshal(b, &object) != nil || object == nil {
			return nil, usagef("%s: want an object, { … }", name)
		}
		return b, nil
	}
	if err := yaml.Unmarshal(b, &object); err != nil {
		return nil, usagef("%s: neither JSON nor YAML of names and values: %v", name, err)
	}
	if object == nil {
		object = map[string]any{}
	}
	out, err := json.Marshal(object)
	if err != nil {
		return nil, usagef("%s: not expressible as JSON: %v", name, err)
	}
	return out, nil
}

// What package files are called: name_version_arch.deb, name-version-release.arch.rpm,
// name-version.tar.gz. A version begins with a digit.
var versionPatterns = []*regexp.Regexp{
	regexp.MustCompile(`^[^_]+_([0-9][^_]*)_[^_]+\.deb$`),
	regexp.MustCompile(`^.+?-([0-9][^-]*-[^-]+)\.[^.-]+\.rpm$`),
	regexp.MustCompile(`^.+?[-_]v?([0-9][^_]*?)(?:[-_.](?:linux|amd64|x86_64)[^/]*)?\.(?:tar(?:\.(?:gz|xz|zst))?|tgz)$`),
}

// versionOf is the version in the name of a package's file; "" if there is none.
func versionOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	for _, p := range versionPatterns {
		if m := p.FindStringSubmatch(path.Base(u.Path)); m != nil {
			return m[1]
		}
	}
	return ""
}

func appRemove(conn *connection) *cobra.Command {
	var wait waiting
	cmd := &cobra.Command{
		Use:   "remove CHASSIS NAME...",
		Short: "Want an app no more: it is stopped and removed from the host",
		Long:  appHelp,
		Args:  args(cobra.MinimumNArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			h, err := c.ChangeApps(cmd.Context(), a[0], client.AppChange{Remove: a[1:]})
			if err != nil {
				return err
			}
			return wait.finish(cmd, conn, c, h)
		}),
	}
	wait.add(cmd.Flags())
	return cmd
}

func appApply(conn *connection) *cobra.Command {
	var in client.AppChange
	var wait waiting
	var file string
	cmd := &cobra.Command{
		Use:   "apply CHASSIS",
		Short: "Set all apps that a host is to have, from a file",
		Long: appHelp + `
Apps that the file does not name are removed from the host. It is YAML or JSON:

  apps:
    exporter:
      version: "1.8"
      url: http://files/exporter_1.8_amd64.deb
      running: true
      config: {default: {port: 9100}}

An empty set, "apps: {}", removes them all.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			apps, err := appsFile(file)
			if err != nil {
				return err
			}
			h, err := c.SetApps(cmd.Context(), a[0], apps, in)
			if err != nil {
				return err
			}
			return wait.finish(cmd, conn, c, h)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "file of the apps; - is standard input")
	consentFlags(f, &in)
	wait.add(f)
	return cmd
}

// appsFile reads a whole set of apps. A config that is left out is an empty one.
func appsFile(name string) (map[string]backbone.App, error) {
	if name == "" {
		return nil, usagef("--file is missing: it says which apps")
	}
	b, err := objectFile(name)
	if err != nil {
		return nil, err
	}
	var doc map[string]map[string]map[string]json.RawMessage
	if json.Unmarshal(b, &doc) != nil || len(doc) != 1 || doc["apps"] == nil {
		return nil, usagef("%s: want apps: with specs by name below it", name)
	}
	for _, spec := range doc["apps"] {
		if spec != nil && spec["config"] == nil {
			spec["config"] = json.RawMessage(`{}`)
		}
	}
	if b, err = json.Marshal(doc["apps"]); err != nil {
		return nil, err
	}
	apps, err := backbone.ParseApps(b)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", name, err)}
	}
	return apps, nil
}
