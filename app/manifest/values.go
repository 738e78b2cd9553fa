package manifest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// Duration is a time.Duration written as 10s or 1m30s.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %.40q is not a duration such as 10s", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// Signal is a signal by name, as SIGTERM; 0 is none.
type Signal unix.Signal

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Signal) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "" {
		*s = 0
		return nil
	}
	v := signalNumber(n.Value)
	if v == 0 {
		return fmt.Errorf("line %d: %.40q is not a signal such as SIGTERM", n.Line, n.Value)
	}
	*s = Signal(v)
	return nil
}

func signalNumber(name string) unix.Signal {
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	return unix.SignalNum(name)
}

// MarshalYAML implements yaml.Marshaler.
func (s Signal) MarshalYAML() (any, error) {
	if s == 0 {
		return "", nil
	}
	return unix.SignalName(unix.Signal(s)), nil
}

// UnmarshalYAML implements yaml.Unmarshaler: memory may have a unit.
func (l *Limits) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: limits: want memory, pids, cpu", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		var err error
		switch k.Value {
		case "memory":
			l.Memory, err = parseBytes(v.Value)
		case "pids":
			l.PIDs, err = strconv.ParseInt(v.Value, 10, 32)
		case "cpu":
			l.CPU, err = strconv.ParseFloat(v.Value, 64)
		default:
			err = fmt.Errorf("want memory, pids, cpu")
		}
		if err != nil {
			return fmt.Errorf("line %d: limit %.40q: %w", k.Line, k.Value, err)
		}
	}
	return nil
}

var units = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"", 1}}

// parseBytes reads 64MiB, 64M or 67108864.
func parseBytes(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.factor {
			break
		}
		return n * u.factor, nil
	}
	return 0, fmt.Errorf("%.40q is not a number of bytes such as 64MiB", s)
}
