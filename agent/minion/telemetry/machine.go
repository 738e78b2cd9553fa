package telemetry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	maxMounts     = 256
	maxSensors    = 512
	maxInterfaces = 256
	// statLimit is how long a file system may take to say how full it is.
	statLimit = 5 * time.Second
)

func (t *Telemetry) path(name string) string { return filepath.Join(t.c.Root, name) }

// memory reads /proc/meminfo.
func (t *Telemetry) memory(context.Context) error {
	b, err := os.ReadFile(t.path("proc/meminfo"))
	if err != nil {
		return err
	}
	kib := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				kib[name] = n
			}
		}
	}
	total, available := kib["MemTotal"], kib["MemAvailable"]
	if total == 0 || available > total {
		return errors.New("/proc/meminfo has no MemTotal and MemAvailable that make sense")
	}
	t.c.Send("mem_used_kb", strconv.FormatUint(total-available, 10)+".0")
	t.c.Send("mem_total_kb", strconv.FormatUint(total, 10))
	t.c.Send("mem_available_kb", strconv.FormatUint(available, 10))
	if swap := kib["SwapTotal"]; swap > 0 && kib["SwapFree"] <= swap {
		t.c.Send("swap_used_kb", strconv.FormatUint(swap-kib["SwapFree"], 10))
	}
	return nil
}

// load reads /proc/loadavg.
func (t *Telemetry) load(context.Context) error {
	b, err := os.ReadFile(t.path("proc/loadavg"))
	if err != nil {
		return err
	}
	one, _, _ := strings.Cut(string(b), " ")
	if _, err := strconv.ParseFloat(one, 64); err != nil {
		return fmt.Errorf("/proc/loadavg: %w", err)
	}
	t.c.Send("load_avg", one)
	return nil
}

// usage is a line of `df -Pk`.
type usage struct {
	Filesystem string `json:"filesystem"`
	Blocks     uint64 `json:"blocks"` // of 1024 bytes, as those below
	Used       uint64 `json:"used"`
	Available  uint64 `json:"available"`
	Capacity   string `json:"capacity"`
	MountedOn  string `json:"mounted_on"`
}

// remote file systems may not answer, and are their server's to measure.
var remote = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "fuse", "autofs"}

// disks is what is mounted, each file system once.
func (t *Telemetry) disks(ctx context.Context) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		kind, _, _ := strings.Cut(m.FSType, ".")
		return slices.Contains(remote, kind), false
	})
	if err != nil {
		return err
	}
	seen := map[[2]int]bool{}
	var all []string
	var errs []error
	for _, m := range mounts {
		device := [2]int{m.Major, m.Minor}
		if seen[device] || len(all) == maxMounts {
			continue
		}
		seen[device] = true
		u, err := t.usageOf(ctx, m)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the others do answer
			errs = append(errs, err)
			continue
		}
		if u.Blocks == 0 { // nothing that can be full
			continue
		}
		b, err := json.Marshal(u)
		if err != nil {
			return err
		}
		all = append(all, string(b))
	}
	t.list("disk_usage", all)
	return errors.Join(errs...)
}

func (t *Telemetry) usageOf(ctx context.Context, m *mountinfo.Info) (usage, error) {
	u := usage{Filesystem: m.Source, MountedOn: m.Mountpoint}
	silent := fmt.Errorf("%s on %s does not say how full it is", m.Source, m.Mountpoint)
	// One that hangs holds a thread as long as it does: it is not asked again meanwhile.
	if _, hangs := t.asking.LoadOrStore(m.Mountpoint, true); hangs {
		return u, silent
	}
	done := make(chan error, 1)
	var st unix.Statfs_t
	go func() {
		err := t.statfs(m.Mountpoint, &st)
		t.asking.Delete(m.Mountpoint)
		done <- err
	}()
	timer := time.NewTimer(t.statLimit)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil { // unmounted meanwhile, or hidden
			return u, nil
		}
	case <-ctx.Done():
		return u, ctx.Err()
	case <-timer.C:
		return u, silent
	}
	size := uint64(cmp.Or(st.Frsize, st.Bsize))
	if st.Bfree > st.Blocks || st.Bavail > st.Blocks {
		return u, nil
	}
	// As df(1): of what is used and what ordinary users can have, rounded up.
	used := st.Blocks - st.Bfree
	u.Blocks, u.Used, u.Available, u.Capacity = st.Blocks*size>>10, used*size>>10, st.Bavail*size>>10, "-"
	if whole := used + st.Bavail; whole > 0 {
		u.Capacity = strconv.FormatUint((used*100+whole-1)/whole, 10) + "%"
	}
	return u, nil
}

// temperature is what a sensor of the kernel's hwmon class says.
type temperature struct {
	Chip    string  `json:"chip"`
	Sensor  string  `json:"sensor"`
	Celsius float64 `json:"celsius"`
}

// temperatures reads /sys/class/hwmon.
func (t *Telemetry) temperatures(context.Context) error {
	inputs, err := filepath.Glob(t.path("sys/class/hwmon/hwmon*/temp*_input"))
	if err != nil {
		return err
	}
	var all []string
	for _, in := range inputs[:min(len(inputs), maxSensors)] {
		milli, err := strconv.ParseFloat(readLine(in), 64)
		if err != nil { // a sensor without a value now gives an error
			continue
		}
		base := strings.TrimSuffix(in, "_input")
		s := temperature{Chip: readLine(filepath.Join(filepath.Dir(in), "name")), Sensor: readLine(base + "_label"), Celsius: milli / 1000}
		if s.Sensor == "" {
			s.Sensor = filepath.Base(base)
		}
		b, err := json.Marshal(s)
		if err != nil {
			return err
		}
		all = append(all, string(b))
	}
	t.list("temperatures", all)
	return nil
}

// readLine returns a file of the kernel's, "" if there is none.
func readLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// counters of an interface, since it came up.
var counters = []string{"rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped"}

// network reads /sys/class/net. The loopback is of no interest.
func (t *Telemetry) network(context.Context) error {
	dirs, err := filepath.Glob(t.path("sys/class/net/*"))
	if err != nil {
		return err
	}
	part := map[string]map[string]uint64{}
	send := func() error {
		if len(part) == 0 {
			return nil
		}
		b, err := json.Marshal(part)
		if err == nil {
			t.c.Send("network", string(b))
		}
		clear(part)
		return err
	}
	for _, dir := range dirs[:min(len(dirs), maxInterfaces)] {
		name := filepath.Base(dir)
		if name == "lo" {
			continue
		}
		of := map[string]uint64{}
		for _, c := range counters {
			if n, err := strconv.ParseUint(readLine(filepath.Join(dir, "statistics", c)), 10, 64); err == nil {
				of[c] = n
			}
		}
		if len(of) > 0 {
			part[name] = of
		}
		if len(part) == 20 { // of 300 bytes each at most
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}
