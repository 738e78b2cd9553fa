package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/agent/boot/network"
	"github.com/teeth-metal/teeth/agent/rackhd"
)

// Ports where none is given.
const (
	DefaultPort       = "8081" // of the control plane
	DefaultMinionPort = "6766" // of a StreamServer
)

const (
	defaultWatchdog   = 60 * time.Second
	defaultPanicDelay = 30 * time.Second
	maxCmdline        = 64 << 10 // the kernel's own limit is 2 to 4 KiB
)

// Options is what the kernel command line tells the agent. The zero value is
// not useful: ParseOptions fills in the defaults.
type Options struct {
	Servers  []string          // teeth.server: host:port of the control plane, tried in order
	CASHA256 string            // teeth.ca_sha256: pin of its CA, 64 hex digits in lower case
	Token    string            // teeth.token: secret that admits this chassis; never logged
	Insecure bool              // teeth.insecure: plain TCP, for tests only
	Static   *network.Static   // teeth.ip: nil means DHCP
	VLAN     int               // teeth.vlan: 802.1Q id, 0 means untagged
	BootMAC  net.HardwareAddr  // BOOTIF or teeth.bootif: the NIC that firmware booted from
	NTP      []string          // teeth.ntp: host or host:port
	LogLevel slog.Level        // teeth.log
	Watchdog time.Duration     // teeth.watchdog: 0 means leave the hardware alone
	Rescue   string            // teeth.rescue: SSH public key, kept for the rescue server
	RackHD   string            // teeth.rackhd: URL of a server of RackHD's tasks API to run the commands of; "" for none
	AnyFiles bool              // teeth.rackhd_downloads=any: its commands may have files from other hosts than that
	Backbone BackboneOptions   // teeth.backbone and its like: a master of apps that is not the control plane
	Minion   MinionOptions     // teeth.minion and its like: a StreamServer that is not the control plane's
	Consoles []string          // console: device names such as ttyS0
	Panic    time.Duration     // panic: how long last words stay on the screen before the reboot
	Params   map[string]string // MODULE.PARAM=VALUE, joined per module as finit_module(2) wants them
	Denied   []string          // modprobe.blacklist, module_blacklist: modules not to load
}

// LogValue keeps token, passwords and keys out of every log.
func (o Options) LogValue() slog.Value {
	token := "none"
	if o.Token != "" {
		token = "set"
	}
	ip := "dhcp"
	if o.Static != nil {
		ip = o.Static.Addr.String()
	}
	return slog.GroupValue(
		slog.String("server", strings.Join(o.Servers, ",")),
		slog.String("ca_sha256", o.CASHA256),
		slog.String("token", token),
		slog.Bool("insecure", o.Insecure),
		slog.String("ip", ip),
		slog.Int("vlan", o.VLAN),
		slog.String("bootif", o.BootMAC.String()),
		slog.String("ntp", strings.Join(o.NTP, ",")),
		slog.String("log", o.LogLevel.String()),
		slog.Duration("watchdog", o.Watchdog),
		slog.Bool("rescue", o.Rescue != ""),
		slog.String("rackhd", o.RackHD),
		slog.Bool("backbone", o.Backbone.URL != ""),
		slog.String("minion", strings.Join(o.Minion.Servers, ",")),
	)
}

// String is LogValue as text, so that no verb of package fmt prints the token.
func (o Options) String() string { return o.LogValue().String() }

// GoString serves %#v, for the same reason as String.
func (o Options) GoString() string { return o.String() }

// setters is every key of ours. A setter leaves the option alone when it
// returns an error, so that the default stands.
var setters = map[string]func(*Options, string) error{
	"teeth.server":    setServers,
	"teeth.ca_sha256": setCA,
	"teeth.token": func(o *Options, v string) error {
		// Control characters cannot come from a boot loader and would
		// break the handshake; the value itself must not be repeated.
		if v == "" || len(v) > 512 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errors.New("teeth.token is not usable: give 1 to 512 printable characters")
		}
		o.Token = v
		return nil
	},
	"teeth.insecure": func(o *Options, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("teeth.insecure=%q is not usable: write 0 or 1", v)
		}
		o.Insecure = b
		return nil
	},
	"teeth.ip": func(o *Options, v string) error {
		if v == "dhcp" {
			o.Static = nil
			return nil
		}
		s, err := network.ParseStatic(v)
		if err != nil {
			return fmt.Errorf("teeth.ip=%q is not usable: %w", v, err)
		}
		o.Static = s
		return nil
	},
	"teeth.vlan": func(o *Options, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 4094 {
			return fmt.Errorf("teeth.vlan=%q is not usable: give a VLAN id from 1 to 4094", v)
		}
		o.VLAN = n
		return nil
	},
	"teeth.bond": func(_ *Options, v string) error {
		return fmt.Errorf("teeth.bond=%q is not supported yet: booting on a single NIC", v)
	},
	"teeth.bootif": setBootIF,
	"BOOTIF":       setBootIF,
	"teeth.ntp": func(o *Options, v string) error {
		var hosts []string
		for h := range strings.SplitSeq(v, ",") {
			if _, err := hostPort(h, "123"); err != nil {
				return fmt.Errorf("teeth.ntp=%q is not usable: %w", v, err)
			}
			hosts = append(hosts, h)
		}
		o.NTP = hosts
		return nil
	},
	"teeth.log": func(o *Options, v string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(v)); err != nil {
			return fmt.Errorf("teeth.log=%q is not usable: write debug, info, warn or error", v)
		}
		o.LogLevel = l
		return nil
	},
	"teeth.watchdog": func(o *Options, v string) error {
		if v == "off" {
			o.Watchdog = 0
			return nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 10 || n > 3600 {
			return fmt.Errorf("teeth.watchdog=%q is not usable: give 10 to 3600 seconds, or off", v)
		}
		o.Watchdog = time.Duration(n) * time.Second
		return nil
	},
	"teeth.rescue": func(o *Options, v string) error {
		if len(strings.Fields(v)) < 2 || len(v) > 16<<10 {
			return errors.New(`teeth.rescue is not usable: give an SSH public key in quotes, as in teeth.rescue="ssh-ed25519 AAAA… name"`)
		}
		o.Rescue = v
		return nil
	},
	"teeth.rackhd": func(o *Options, v string) error {
		if _, err := rackhd.ParseURL(v); err != nil {
			return fmt.Errorf("teeth.rackhd is not usable: %w", err)
		}
		o.RackHD = v
		return nil
	},
	"teeth.rackhd_downloads": func(o *Options, v string) error {
		if v != "any" && v != "server" {
			return fmt.Errorf("teeth.rackhd_downloads=%q is not usable: write any or server", v)
		}
		o.AnyFiles = v == "any"
		return nil
	},
	"teeth.minion":             setMinion,
	"teeth.minion_group":       setMinionGroup,
	"teeth.minion_id":          setMinionID,
	"teeth.minion_key":         setMinionKey,
	"teeth.minion_insecure":    setMinionInsecure,
	"teeth.backbone":           setBackbone,
	"teeth.backbone_ca_sha256": setBackboneCA,
	"teeth.backbone_dialect":   setBackboneDialect,
	"teeth.backbone_heartbeat": setBackboneHeartbeat,
	"console": func(o *Options, v string) error {
		name, _, _ := strings.Cut(v, ",")
		if name == "" || name == "null" {
			return nil
		}
		if strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") || len(name) > 32 {
			return fmt.Errorf("console=%q is not a console of ours: the name of a device in /dev is wanted", v)
		}
		o.Consoles = append(o.Consoles, name)
		return nil
	},
	"panic": func(o *Options, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("panic=%q is not usable: give seconds", v)
		}
		switch {
		case n < 0:
			o.Panic = 0
		case n > 0:
			o.Panic = min(time.Duration(n), 3600) * time.Second
		}
		return nil
	},
	"modprobe.blacklist": setDenied,
	"module_blacklist":   setDenied,
}

// ParseOptions reads a kernel command line. Every value that cannot be used is
// one sentence of the returned error, and leaves its default standing: the
// Options are good to boot with even when the error is not nil.
func ParseOptions(cmdline string) (Options, error) {
	o := Options{Watchdog: defaultWatchdog, Panic: defaultPanicDelay}
	if len(cmdline) > maxCmdline {
		return o, fmt.Errorf("kernel command line has %d bytes, more than the %d that any kernel hands over: ignored", len(cmdline), maxCmdline)
	}
	var problems []error
	for key, value := range words(cmdline) {
		set := setters[key]
		if set == nil {
			switch {
			case strings.HasPrefix(key, "teeth."):
				problems = append(problems, fmt.Errorf("%s is not an option of this agent: ignored", strconv.Quote(key)))
			case isModuleParam(key):
				o.addParam(key, value)
			}
			continue
		}
		if err := set(&o, value); err != nil {
			problems = append(problems, err)
		}
	}
	return o, errors.Join(problems...)
}

// words yields key and value of each word the way the kernel's next_arg()
// splits them: at blanks outside of double quotes, one pair of quotes around
// the word or the value taken away, nothing after a lone "--".
func words(s string) func(yield func(key, value string) bool) {
	blank := func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }
	return func(yield func(string, string) bool) {
		for i := 0; i < len(s); {
			if blank(s[i]) {
				i++
				continue
			}
			start, quoted := i, false
			for i < len(s) && (quoted || !blank(s[i])) {
				quoted = quoted != (s[i] == '"')
				i++
			}
			word := s[start:i]
			if word == "--" {
				return
			}
			if w, ok := strings.CutPrefix(word, `"`); ok {
				word = strings.TrimSuffix(w, `"`)
			}
			key, value, _ := strings.Cut(word, "=")
			if v, ok := strings.CutPrefix(value, `"`); ok {
				value = strings.TrimSuffix(v, `"`)
			}
			if !yield(key, value) {
				return
			}
		}
	}
}

func setServers(o *Options, v string) error {
	var servers []string
	for s := range strings.SplitSeq(v, ",") {
		hp, err := hostPort(s, DefaultPort)
		if err != nil {
			return fmt.Errorf("teeth.server=%q is not usable: %w", v, err)
		}
		servers = append(servers, hp)
	}
	o.Servers = servers
	return nil
}

func setCA(o *Options, v string) error {
	b, err := hex.DecodeString(strings.ReplaceAll(v, ":", ""))
	if err != nil || len(b) != 32 {
		return fmt.Errorf("teeth.ca_sha256=%q is not usable: give the 64 hex digits that teeth serve prints", v)
	}
	o.CASHA256 = hex.EncodeToString(b)
	return nil
}

// setBootIF takes what pxelinux and iPXE write: 01- (the ARP hardware type of
// Ethernet) and the address with dashes; or the plain address.
func setBootIF(o *Options, v string) error {
	mac, err := net.ParseMAC(strings.ReplaceAll(v, "-", ":"))
	if err != nil && len(v) == len("01-00:11:22:33:44:55") {
		if rest, ok := strings.CutPrefix(v, "01"); ok {
			mac, err = net.ParseMAC(strings.ReplaceAll(rest[1:], "-", ":"))
		}
	}
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("BOOTIF=%q is not usable: give the address of a NIC, as in 01-00-11-22-33-44-55", v)
	}
	o.BootMAC = mac
	return nil
}

func setDenied(o *Options, v string) error {
	for name := range strings.SplitSeq(v, ",") {
		if name != "" {
			o.Denied = append(o.Denied, name)
		}
	}
	return nil
}

// hostPort checks HOST, HOST:PORT, [IPv6] or [IPv6]:PORT and adds the port
// where it is missing.
func hostPort(s, port string) (string, error) {
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if h, ok := strings.CutPrefix(s, "["); ok {
		host = strings.TrimSuffix(h, "]")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q has no port from 1 to 65535", s)
	}
	if _, err := netip.ParseAddr(host); err != nil && !network.ValidHost(host) {
		return "", fmt.Errorf("%q is not host:port", s)
	}
	return net.JoinHostPort(host, port), nil
}

// isModuleParam tells MODULE.PARAM from the dotted options of others, as far
// as that can be told: finit_module ignores a parameter the module lacks.
func isModuleParam(key string) bool {
	mod, param, ok := strings.Cut(key, ".")
	word := func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
			return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
	}
	return ok && word(mod) && word(param)
}

func (o *Options) addParam(key, value string) {
	mod, param, _ := strings.Cut(key, ".")
	mod = strings.ReplaceAll(mod, "-", "_")
	if value != "" {
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"`
		}
		param += "=" + value
	}
	if o.Params == nil {
		o.Params = map[string]string{}
	}
	o.Params[mod] = strings.TrimSpace(o.Params[mod] + " " + param)
}
