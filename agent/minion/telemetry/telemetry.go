package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/agent/minion/command"
)

const (
	// DefaultInterval is between two measurements unless something else is said.
	DefaultInterval = time.Minute

	minInterval = time.Second
	maxInterval = 7 * 24 * time.Hour
	maxCustom   = 256
	// room is how many bytes of a value fit in a frame, whatever group and server are
	// called.
	room = 7000
)

// Builtin is one of the measurements that the agent knows: memory, load_avg,
// disk_usage, temperatures, network, pick_files. In a configuration it is its name,
// or {label, arguments}.
type Builtin struct {
	Label     string   `yaml:"label"`
	Arguments []string `yaml:"arguments"` // of pick_files: the folder, and where its files are moved
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Builtin) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&b.Label)
	}
	type plain Builtin
	return n.Decode((*plain)(b))
}

// Custom is a measurement that a program makes: what it prints is the value.
type Custom struct {
	Name    string   `yaml:"name"` // the label
	Command string   `yaml:"command"`
	Args    []string `yaml:"args"`
	// Interval is in seconds; 0: that of all others.
	Interval float64 `yaml:"interval"`
}

// argv is the command's. One with blanks and no arguments is a line for the shell,
// as the original has it.
func (c Custom) argv() []string {
	if len(c.Args) == 0 && strings.ContainsAny(c.Command, " \t|&;<>$`\"'") {
		return []string{"/bin/sh", "-c", c.Command}
	}
	return append([]string{c.Command}, c.Args...)
}

// Defaults is what is measured where nothing was configured.
func Defaults() []Builtin {
	return []Builtin{{Label: "memory"}, {Label: "load_avg"}, {Label: "disk_usage"}, {Label: "temperatures"}, {Label: "network"}}
}

// Config of a Telemetry.
type Config struct {
	Interval time.Duration // 0: DefaultInterval
	Builtin  []Builtin
	Custom   []Custom
	// Send takes a measurement: a label and values, or one text that begins with
	// "JSON:". It should not block.
	Send func(label string, values ...string)
	Root string // where /proc and /sys are; "/" unless set
	Log  *slog.Logger
}

// Telemetry makes measurements.
type Telemetry struct {
	c    Config
	jobs []job

	asking    sync.Map // mount points whose file systems are being asked how full they are
	statfs    func(path string, st *unix.Statfs_t) error
	statLimit time.Duration
}

// job is a measurement, made again and again.
type job struct {
	name     string
	interval time.Duration
	run      func(context.Context) error
}

// New returns a Telemetry that Run starts.
func New(c Config) (*Telemetry, error) {
	if c.Send == nil || c.Log == nil {
		return nil, errors.New("telemetry: Send and Log must be set")
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Root == "" {
		c.Root = "/"
	}
	t := &Telemetry{c: c, statfs: unix.Statfs, statLimit: statLimit}
	if c.Interval < minInterval || c.Interval > maxInterval {
		return nil, fmt.Errorf("telemetry: interval %v: want %v to %v", c.Interval, minInterval, maxInterval)
	}
	builtin := map[string]func(context.Context) error{
		"memory": t.memory, "load_avg": t.load, "disk_usage": t.disks, "temperatures": t.temperatures, "network": t.network,
	}
	for _, b := range c.Builtin {
		run, ok := builtin[b.Label]
		switch {
		case b.Label == "pick_files":
			p, err := newPicker(b.Arguments)
			if err != nil {
				return nil, err
			}
			run = func(ctx context.Context) error { return t.pick(ctx, p) }
		case !ok:
			return nil, fmt.Errorf("telemetry %q is not built in: want memory, load_avg, disk_usage, temperatures, network or pick_files", b.Label)
		case len(b.Arguments) > 0:
			return nil, fmt.Errorf("telemetry %s takes no arguments", b.Label)
		}
		t.jobs = append(t.jobs, job{b.Label, c.Interval, run})
	}
	if len(c.Custom) > maxCustom {
		return nil, fmt.Errorf("telemetry: %d commands; at most %d are run", len(c.Custom), maxCustom)
	}
	for _, custom := range c.Custom {
		if custom.Name == "" || custom.Command == "" {
			return nil, fmt.Errorf("telemetry %q: it needs a name and a command", custom.Name+custom.Command)
		}
		every := c.Interval
		if custom.Interval != 0 {
			every = time.Duration(custom.Interval * float64(time.Second))
		}
		if every < minInterval || every > maxInterval {
			return nil, fmt.Errorf("telemetry %s: interval of %v s: want %v to %v", custom.Name, custom.Interval, minInterval, maxInterval)
		}
		t.jobs = append(t.jobs, job{custom.Name, every, func(ctx context.Context) error { return t.custom(ctx, custom, every) }})
	}
	return t, nil
}

// Run measures until ctx ends, whose error it returns.
func (t *Telemetry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, j := range t.jobs {
		wg.Go(func() { t.repeat(ctx, j) })
	}
	wg.Wait()
	<-ctx.Done()
	return ctx.Err()
}

// repeat makes one measurement again and again. A failure is logged when it is
// another than the last.
func (t *Telemetry) repeat(ctx context.Context, j job) {
	timer := time.NewTimer(rand.N(j.interval))
	defer timer.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := j.run(ctx)
		if ctx.Err() != nil {
			return
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		if now != said && now != "" {
			t.c.Log.Warn("cannot measure", "telemetry", j.name, "err", err)
		}
		said = now
		timer.Reset(j.interval - j.interval/10 + rand.N(j.interval/5+1))
	}
}

// custom runs a command of the configuration.
func (t *Telemetry) custom(ctx context.Context, c Custom, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, min(limit, time.Minute))
	defer cancel()
	out, err := command.Output(ctx, c.argv(), room)
	if err != nil {
		return err
	}
	t.c.Send(c.Name, strings.TrimSpace(out))
	return nil
}

// list sends a list under a label, in as many pieces as it takes.
func (t *Telemetry) list(label string, items []string) {
	for len(items) > 0 {
		size, n := 2, 0
		for n < len(items) && (n == 0 || size+len(items[n])+1 <= room) {
			size += len(items[n]) + 1
			n++
		}
		t.c.Send(label, "["+strings.Join(items[:n], ",")+"]")
		items = slices.Clip(items[n:])
	}
}
