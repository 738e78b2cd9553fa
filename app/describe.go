package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/config"
	"github.com/teeth-metal/teeth/app/manifest"
	"github.com/teeth-metal/teeth/app/sandbox"
)

// contract is where an app of Backbone's keeps its config program.
func contract(name string) string { return "/opt/pf9/" + name + "/config" }

var unitDirs = []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// description is what an app says about itself, found out once, when it is installed:
// what runs in there could write itself another later.
type description struct {
	manifest *manifest.Manifest
	program  string // the config program; "" without
	skipped  []string
}

// describe reads what is in an unpacked package. run calls its config program.
func describe(s Spec, tree *os.Root, run func(program string, args ...string) ([]byte, error)) (*description, error) {
	d := &description{manifest: &manifest.Manifest{}}
	text := []byte(s.Manifest)
	if len(text) == 0 {
		var err error
		if text, err = findManifest(s.Name, tree); err != nil {
			return nil, err
		}
	}
	if len(text) > 0 {
		m, err := manifest.Parse(text)
		if err != nil {
			return nil, err
		}
		d.manifest = m
	}
	if st, err := tree.Stat(contract(s.Name)[1:]); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
		d.program = contract(s.Name)
	}
	if len(d.manifest.Services) == 0 {
		if err := d.services(tree, run); err != nil {
			return nil, err
		}
	}
	return d, d.check()
}

func (d *description) check() error {
	for _, c := range d.manifest.Capabilities {
		if _, err := sandbox.Capability(c); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	return nil
}

// readSmall reads a file of a package.
func readSmall(tree *os.Root, name string) ([]byte, error) {
	f, err := tree.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err == nil && len(b) > manifest.MaxSize {
		err = fmt.Errorf("more than %d bytes", manifest.MaxSize)
	}
	return b, err
}

func findManifest(app string, tree *os.Root) ([]byte, error) {
	for _, dir := range []string{"", path.Dir(contract(app))[1:]} {
		for _, name := range manifest.Names {
			b, err := readSmall(tree, path.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("manifest: %s: %w", path.Join(dir, name), err)
			}
			return b, nil
		}
	}
	return nil, nil
}

// services takes those that the config program names, else those that a package of a
// distribution would start, from units and init scripts.
func (d *description) services(tree *os.Root, run func(string, ...string) ([]byte, error)) error {
	units, err := d.units(tree)
	if err != nil {
		return err
	}
	scripts, err := initScripts(tree)
	if err != nil {
		return err
	}
	all := map[string]manifest.Service{}
	for name, s := range scripts {
		all[name] = s
	}
	for name, u := range units {
		all[name] = u.Service
	}
	wanted := []string{}
	named := false
	if d.program != "" {
		// One that fails here is of the time before there were several services.
		out, err := run(d.program, "--get-services")
		if err == nil {
			wanted, named = strings.Fields(string(out)), true
		}
	}
	if !named {
		for name := range all {
			if u, ok := units[name]; !ok || u.Installable {
				wanted = append(wanted, name)
			}
		}
		slices.Sort(wanted)
	}
	services := map[string]manifest.Service{}
	for _, name := range wanted {
		s, ok := all[name]
		if !ok {
			return fmt.Errorf("its config program names service %.80q, of which the package has neither a unit nor an init script", name)
		}
		services[name] = s
		for _, c := range units[name].Capabilities {
			if !slices.Contains(d.manifest.Capabilities, c) {
				d.manifest.Capabilities = append(d.manifest.Capabilities, c)
			}
		}
	}
	if len(services) == 0 {
		return nil
	}
	d.manifest.Services = services
	// The bounds on manifests are for these, too.
	b, err := d.manifest.Marshal()
	if err == nil {
		_, err = manifest.Parse(b)
	}
	return err
}

func (d *description) units(tree *os.Root) (map[string]manifest.Unit, error) {
	units := map[string]manifest.Unit{}
	for _, dir := range unitDirs {
		names, err := list(tree, dir)
		if err != nil {
			return nil, err
		}
		for _, file := range names {
			name, ok := strings.CutSuffix(file, ".service")
			if _, taken := units[name]; !ok || taken || strings.HasSuffix(name, "@") {
				continue
			}
			b, err := readSmall(tree, path.Join(dir, file))
			if err != nil {
				continue // an alias: a symbolic link to where we do not go
			}
			u, err := manifest.ParseUnit(b)
			if err != nil {
				d.skipped = append(d.skipped, fmt.Sprintf("unit %s: %v", file, err))
				continue
			}
			units[name] = u
		}
	}
	return units, nil
}

// initScripts are run as they would be by init.
func initScripts(tree *os.Root) (map[string]manifest.Service, error) {
	scripts := map[string]manifest.Service{}
	names, err := list(tree, "etc/init.d")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		st, err := tree.Stat(path.Join("etc/init.d", name))
		if err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			scripts[name] = manifest.Service{Command: []string{"/etc/init.d/" + name, "start"}, Forking: true}
		}
	}
	return scripts, nil
}

// list returns the names in a directory of a package; none if it is not there.
func list(tree *os.Root, dir string) ([]string, error) {
	f, err := tree.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	const most = 1000
	names, err := f.Readdirnames(most)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read /%s: %w", dir, err)
	}
	slices.Sort(names)
	return names, nil
}

// errUndeliverable says that nobody would see a configuration.
var errUndeliverable = errors.New("the app has no way to be configured: it needs a config program in /opt/pf9, or config in a manifest")

// deliverable checks that a configuration can reach the app.
func (d *description) deliverable(c json.RawMessage) error {
	if d.program != "" {
		// execve(2) takes 128 KiB in one argument.
		if len(c) >= 128<<10 {
			return fmt.Errorf("config of %d bytes, a config program can be given less than %d", len(c), 128<<10)
		}
		return nil
	}
	if d.manifest.Config == nil {
		if string(c) == "{}" {
			return nil
		}
		return errUndeliverable
	}
	_, err := config.Render(d.manifest.Config.Format, c)
	return err
}

// programTime is how long a config program may take.
const programOutput = 1 << 20

// runProgram runs a program in the app's sandbox and returns what it prints.
func runProgram(ctx context.Context, s sandbox.Setup, group *os.File) ([]byte, error) {
	var out, diag []byte
	grab := func(to *[]byte, most int64) func(io.Reader) {
		return func(r io.Reader) { *to, _ = io.ReadAll(io.LimitReader(r, most+1)) }
	}
	p, err := sandbox.Start(s, group, grab(&out, programOutput), grab(&diag, 4096))
	if err != nil {
		return nil, err
	}
	e := p.Wait(ctx)
	select {
	case <-p.Done(): // so that nobody writes to out any more
	default:
		return nil, fmt.Errorf("%s: %s, and it does not die", s.Command[0], e)
	}
	if e.Status() != 0 {
		return nil, fmt.Errorf("%s %s: %s: %.500s", s.Command[0], s.Command[1], e, strings.TrimSpace(string(diag)))
	}
	if len(out) > programOutput {
		return nil, fmt.Errorf("%s %s: it prints more than %d bytes", s.Command[0], s.Command[1], programOutput)
	}
	return out, nil
}
