package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`)

// ErrNotService is wrapped by errors about a unit that cannot be run as a service
// here, with the reason.
var ErrNotService = errors.New("unit cannot be run as a service")

// Unit is what matters of a unit.
type Unit struct {
	Service      Service
	Capabilities []string // of AmbientCapabilities=
	// Installable is whether it has an [Install] section: one without is started by
	// other units only, timers for instance.
	Installable bool
}

// ParseUnit reads the [Service] section of a unit of systemd, as systemd.service(5)
// and systemd.exec(5) have it: Type, ExecStart, Environment, EnvironmentFile,
// WorkingDirectory, User and Group in digits, Restart, KillSignal, TimeoutStopSec,
// ExecReload when it sends a signal, AmbientCapabilities. Other settings are
// ignored: an app's sandbox is stricter than they are. User names are, too, as the
// machine has none: the service then runs as user 0 without capabilities.
func ParseUnit(b []byte) (Unit, error) {
	if len(b) > MaxSize {
		return Unit{}, fmt.Errorf("unit of %d bytes, at most %d are taken", len(b), MaxSize)
	}
	u := unit{svc: Service{Restart: Never, Env: map[string]string{}, Expand: true}, kind: "simple"}
	if err := u.lines(b); err != nil {
		return Unit{}, err
	}
	switch u.kind {
	case "simple", "exec", "notify", "notify-reload", "idle":
	case "oneshot":
		if u.svc.Restart == Always {
			u.svc.Restart = Never
		}
	case "forking":
		u.svc.Forking = true
	default:
		return Unit{}, fmt.Errorf("%w: it is of type %.20q", ErrNotService, u.kind)
	}
	if u.commands != 1 {
		return Unit{}, fmt.Errorf("%w: it has %d ExecStart= lines", ErrNotService, u.commands)
	}
	if u.user != "" {
		u.svc.User = u.user
		if u.group != "" {
			u.svc.User += ":" + u.group
		}
	}
	if err := u.svc.check(); err != nil {
		return Unit{}, fmt.Errorf("unit: %w", err)
	}
	return Unit{u.svc, u.caps, u.install}, nil
}

type unit struct {
	svc         Service
	kind        string
	commands    int
	user, group string
	caps        []string
	install     bool
}

func (u *unit) lines(b []byte) error {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, MaxSize+1)
	section, line := "", ""
	for n := 1; sc.Scan(); n++ {
		text := strings.TrimSpace(sc.Text())
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		if part, more := strings.CutSuffix(text, `\`); more {
			line += part + " "
			continue
		}
		line += text
		if strings.HasPrefix(line, "[") {
			section = line
			u.install = u.install || section == "[Install]"
		} else if section == "[Service]" {
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				return fmt.Errorf("unit: line %d: no =", n)
			}
			if err := u.set(strings.TrimSpace(k), strings.TrimSpace(v)); err != nil {
				return fmt.Errorf("unit: line %d: %s: %w", n, strings.TrimSpace(k), err)
			}
		}
		line = ""
	}
	return sc.Err()
}

// set takes one setting.
func (u *unit) set(key, value string) (err error) {
	switch key {
	case "Type":
		u.kind = value
	case "ExecStart":
		return u.execStart(value)
	case "ExecReload":
		u.svc.ReloadSignal = reloadSignal(value)
	case "Environment":
		return u.environment(value)
	case "EnvironmentFile":
		if value == "" {
			u.svc.EnvFiles = nil
			return nil
		}
		u.svc.EnvFiles = append(u.svc.EnvFiles, value)
	case "WorkingDirectory":
		if u.svc.Dir = strings.TrimPrefix(value, "-"); u.svc.Dir == "~" {
			u.svc.Dir = ""
		}
	case "User", "Group":
		if _, err := strconv.ParseUint(value, 10, 31); err != nil {
			return nil // a name: see ParseUnit
		}
		if key == "User" {
			u.user = value
		} else {
			u.group = value
		}
	case "Restart":
		switch value {
		case "always":
			u.svc.Restart = Always
		case "no", "on-success", "":
			u.svc.Restart = Never
		default: // on-failure, on-abnormal, on-abort, on-watchdog
			u.svc.Restart = OnFailure
		}
	case "KillSignal":
		u.svc.StopSignal = Signal(signalNumber(value))
	case "TimeoutStopSec":
		u.svc.StopTimeout, err = unitSeconds(value)
	case "AmbientCapabilities":
		for _, c := range strings.Fields(value) {
			if !capRE.MatchString(c) {
				return fmt.Errorf("%.40q is not the name of a capability", c)
			}
			u.caps = append(u.caps, c)
		}
	}
	return err
}

func (u *unit) execStart(value string) error {
	if value == "" {
		u.commands, u.svc.Command = 0, nil
		return nil
	}
	u.commands++
	at := strings.TrimLeft(value, "-+!:|@")
	prefix := value[:len(value)-len(at)]
	words, err := splitWords(at)
	if err != nil || len(words) == 0 {
		return fmt.Errorf("command %.80q: %w", value, err)
	}
	if strings.Contains(prefix, ":") {
		u.svc.Expand = false
	}
	if strings.Contains(prefix, "@") && len(words) > 1 {
		words = slices.Delete(words, 1, 2) // argv[0]: its program does not learn it
	}
	for i, w := range words {
		if words[i], err = percent(w); err != nil {
			return err
		}
	}
	u.svc.Command = words
	return nil
}

func (u *unit) environment(value string) error {
	words, err := splitWords(value)
	if err != nil {
		return err
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || !variableRE.MatchString(k) {
			return fmt.Errorf("%.80q is not NAME=VALUE", w)
		}
		if u.svc.Env[k], err = percent(v); err != nil {
			return err
		}
	}
	return nil
}

// percent resolves %%; other specifiers mean things that an app does not have.
func percent(s string) (string, error) {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+1 == len(s) || s[i+1] != '%' {
				return "", fmt.Errorf("%w: specifier in %.80q", ErrNotService, s)
			}
			s = s[:i] + s[i+1:]
		}
	}
	return s, nil
}

// reloadSignal reads "/bin/kill -HUP $MAINPID"; any other command is none.
func reloadSignal(value string) Signal {
	f := strings.Fields(strings.TrimLeft(value, "-+!:|@"))
	if len(f) < 3 || !strings.HasSuffix(f[0], "/kill") && f[0] != "kill" || f[len(f)-1] != "$MAINPID" {
		return 0
	}
	return Signal(signalNumber(strings.TrimPrefix(strings.TrimPrefix(f[len(f)-2], "-s"), "-")))
}

// unitSeconds reads 30, 30s or 1min 30s; infinity is the most there is.
func unitSeconds(v string) (Duration, error) {
	const most = 10 * time.Minute
	if v == "infinity" {
		return Duration(most), nil
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return Duration(min(time.Duration(n)*time.Second, most)), nil
	}
	d, err := time.ParseDuration(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(v, " ", ""), "min", "m"), "sec", "s"))
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%.40q is not a time", v)
	}
	return Duration(min(d, most)), nil
}

// splitWords splits at blanks outside of quotes, with \ escapes of itself, quotes
// and blanks.
func splitWords(s string) ([]string, error) {
	var words []string
	var cur strings.Builder
	quote, in := rune(0), false
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			if !strings.ContainsRune("\\\"' ", r) {
				cur.WriteByte('\\')
			}
			cur.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			cur.WriteRune(r)
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == ' ' || r == '\t':
			if in {
				words = append(words, cur.String())
				cur.Reset()
				in = false
			}
		default:
			cur.WriteRune(r)
			in = true
		}
		if len(words) > maxWords {
			return nil, fmt.Errorf("more than %d words", maxWords)
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote or a backslash at the end")
	}
	if in {
		words = append(words, cur.String())
	}
	return words, nil
}

// ParseEnv reads a file of variables as systemd.exec(5) has it for EnvironmentFile:
// NAME=VALUE lines, with quotes, comments after # or ; at the beginning.
func ParseEnv(b []byte) (map[string]string, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes of variables, at most %d are taken", len(b), MaxSize)
	}
	env := map[string]string{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || !variableRE.MatchString(k) || strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("line %d is not NAME=VALUE", n)
		}
		env[k] = unquote(strings.TrimSpace(v))
		if len(env) > maxWords {
			return nil, fmt.Errorf("more than %d variables", maxWords)
		}
	}
	return env, nil
}

func unquote(v string) string {
	if len(v) < 2 || v[0] != v[len(v)-1] {
		return v
	}
	switch v[0] {
	case '\'':
		return v[1 : len(v)-1]
	case '"':
		return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(v[1 : len(v)-1])
	}
	return v
}
