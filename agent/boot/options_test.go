package boot

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		name, cmdline string
		want          func(*Options) // on top of the defaults
		problem       string         // part of the error, "" for none
	}{
		{"nothing", "", func(*Options) {}, ""},
		{"words of others", "BOOT_IMAGE=/vmlinuz ro quiet root=/dev/sda1 rd.break", func(o *Options) { o.Params = map[string]string{"rd": "break"} }, ""},
		{"servers", "teeth.server=cp.example,10.0.0.1:9000,[2001:db8::1]:80", func(o *Options) {
			o.Servers = []string{"cp.example:8081", "10.0.0.1:9000", "[2001:db8::1]:80"}
		}, ""},
		{"one bad server spoils the list", "teeth.server=ok,bad_host", func(*Options) {}, `"bad_host" is not host:port`},
		{"server port", "teeth.server=a:70000", func(*Options) {}, "no port from 1 to 65535"},
		{"last wins", "teeth.server=a teeth.server=b", func(o *Options) { o.Servers = []string{"b:8081"} }, ""},
		{"pin", "teeth.ca_sha256=" + strings.Repeat("aB:", 31) + "ab", func(o *Options) { o.CASHA256 = strings.Repeat("ab", 32) }, ""},
		{"short pin", "teeth.ca_sha256=abcd", func(*Options) {}, "64 hex digits"},
		{"token", `teeth.token="two words"`, func(o *Options) { o.Token = "two words" }, ""},
		{"quotes around the word", `"teeth.token=two words"`, func(o *Options) { o.Token = "two words" }, ""},
		{"minion", "teeth.minion=ss,[2001:db8::1]:47990 teeth.minion_group=g1 teeth.minion_id=id teeth.minion_key=k1 teeth.minion_insecure=1", func(o *Options) {
			o.Minion = MinionOptions{Servers: []string{"ss:6766", "[2001:db8::1]:47990"}, Group: "g1", ID: "id", Key: "k1", Insecure: true}
		}, ""},
		{"minion without a port", "teeth.minion=ss:0", func(*Options) {}, `teeth.minion="ss:0" is not usable`},
		{"minion's group", "teeth.minion_group=", func(*Options) {}, `teeth.minion_group="" is not usable`},
		{"minion's id", "teeth.minion_id=\x01", func(*Options) {}, `teeth.minion_id="\x01" is not usable`},
		{"minion in the clear", "teeth.minion_insecure=maybe", func(*Options) {}, `teeth.minion_insecure="maybe" is not usable`},
		{"empty token", `teeth.token=`, func(*Options) {}, "teeth.token is not usable"},
		{"insecure", "teeth.insecure=1", func(o *Options) { o.Insecure = true }, ""},
		{"insecure nonsense", "teeth.insecure=yes", func(*Options) {}, "write 0 or 1"},
		{"dhcp", "teeth.ip=dhcp", func(*Options) {}, ""},
		{"bad static", "teeth.ip=10.0.0.1", func(*Options) {}, "not ADDRESS/LENGTH"},
		{"vlan", "teeth.vlan=4094", func(o *Options) { o.VLAN = 4094 }, ""},
		{"vlan 0", "teeth.vlan=0", func(*Options) {}, "from 1 to 4094"},
		{"bond", "teeth.bond=eth0,eth1", func(*Options) {}, "not supported yet"},
		{"pxelinux", "BOOTIF=01-52-54-00-12-34-56", func(o *Options) { o.BootMAC = []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} }, ""},
		{"iPXE", "teeth.bootif=52:54:00:12:34:56", func(o *Options) { o.BootMAC = []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} }, ""},
		{"multicast NIC", "BOOTIF=01:00:5e:00:00:01", func(*Options) {}, "address of a NIC"},
		{"BOOTIF nonsense", "BOOTIF=01", func(*Options) {}, "address of a NIC"},
		{"ntp", "teeth.ntp=ntp.example,10.0.0.1:1123", func(o *Options) { o.NTP = []string{"ntp.example", "10.0.0.1:1123"} }, ""},
		{"log", "teeth.log=debug", func(o *Options) { o.LogLevel = slog.LevelDebug }, ""},
		{"log nonsense", "teeth.log=loud", func(*Options) {}, "debug, info, warn or error"},
		{"watchdog off", "teeth.watchdog=off", func(o *Options) { o.Watchdog = 0 }, ""},
		{"watchdog", "teeth.watchdog=30", func(o *Options) { o.Watchdog = 30 * time.Second }, ""},
		{"watchdog too short", "teeth.watchdog=1", func(*Options) {}, "10 to 3600 seconds"},
		{"rescue", `teeth.rescue="ssh-ed25519 AAAA me"`, func(o *Options) { o.Rescue = "ssh-ed25519 AAAA me" }, ""},
		{"rescue without quotes", `teeth.rescue=ssh-ed25519 AAAA`, func(*Options) {}, "SSH public key in quotes"},
		{"rackhd", "teeth.rackhd=http://10.0.0.1:8082 teeth.rackhd_downloads=any", func(o *Options) { o.RackHD, o.AnyFiles = "http://10.0.0.1:8082", true }, ""},
		{"rackhd without scheme", "teeth.rackhd=10.0.0.1:8082", func(*Options) {}, "want http://HOST:PORT"},
		{"rackhd downloads", "teeth.rackhd_downloads=all", func(*Options) {}, "write any or server"},
		{"backbone", "teeth.backbone=amqps://u:p@h/v teeth.backbone_ca_sha256=" + strings.Repeat("AB", 32) + " teeth.backbone_dialect=2015 teeth.backbone_heartbeat=30", func(o *Options) {
			o.Backbone = BackboneOptions{URL: "amqps://u:p@h/v", CASHA256: strings.Repeat("ab", 32), Dialect: "2015", Heartbeat: 30 * time.Second}
		}, ""},
		{"backbone by HTTP", "teeth.backbone=http://u:hush@h/", func(*Options) {}, "want amqp[s]://"},
		{"backbone's pin", "teeth.backbone_ca_sha256=ab", func(*Options) {}, "64 hex digits"},
		{"backbone's dialect", "teeth.backbone_dialect=new", func(*Options) {}, "auto, document, 2014 or 2015"},
		{"backbone's heartbeat", "teeth.backbone_heartbeat=1", func(*Options) {}, "5 to 3600 seconds"},
		{"consoles", "console=tty0 console=ttyS1,115200n8 console=null", func(o *Options) { o.Consoles = []string{"tty0", "ttyS1"} }, ""},
		{"console that climbs", "console=../sda", func(*Options) {}, "not a console"},
		{"panic at once", "panic=-1", func(o *Options) { o.Panic = 0 }, ""},
		{"panic 0 keeps ours", "panic=0", func(*Options) {}, ""},
		{"panic", "panic=5", func(o *Options) { o.Panic = 5 * time.Second }, ""},
		{"module parameters", `nvme-core.io_timeout=7 nvme_core.multipath=N x.y="a b"`, func(o *Options) {
			o.Params = map[string]string{"nvme_core": "io_timeout=7 multipath=N", "x": `y="a b"`}
		}, ""},
		{"denied", "modprobe.blacklist=a,b module_blacklist=c", func(o *Options) { o.Denied = []string{"a", "b", "c"} }, ""},
		{"unknown", "teeth.sever=x", func(*Options) {}, `"teeth.sever" is not an option`},
		{"after the dashes", "teeth.vlan=5 -- teeth.vlan=6", func(o *Options) { o.VLAN = 5 }, ""},
		{"others survive a bad one", "teeth.vlan=x teeth.insecure=1", func(o *Options) { o.Insecure = true }, "VLAN id"},
		{"open quote", `teeth.token="abc`, func(o *Options) { o.Token = "abc" }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Options{Watchdog: 60 * time.Second, Panic: 30 * time.Second}
			tt.want(&want)
			got, err := ParseOptions(tt.cmdline)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			switch {
			case tt.problem == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)):
				t.Errorf("error %v, want one with %q", err, tt.problem)
			}
		})
	}
	if _, err := ParseOptions(strings.Repeat(" ", maxCmdline+1)); err == nil {
		t.Error("an endless command line is accepted")
	}
}

func TestTokenStaysSecret(t *testing.T) {
	const secret = "hush-hush"
	o, err := ParseOptions("teeth.token=" + secret + " teeth.minion_key=" + secret + " teeth.backbone=amqp://u:" + secret + "@h/")
	if err != nil || o.Token != secret {
		t.Fatal(o.Token, err)
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "options", o, "pointer", &o)
	fmt.Fprintf(&b, "%v %+v %#v %s %q", o, o, o, o, o)
	fmt.Fprintf(&b, "%v %+v %#v", &o, struct{ O Options }{o}, []Options{o})
	if _, err := ParseOptions("teeth.backbone=amqpx://u:" + secret + "@h/"); err != nil {
		b.WriteString(err.Error())
	}
	if _, err := ParseOptions("teeth.minion_key=" + secret + "\x01"); err == nil {
		t.Error("control characters in a key are accepted")
	} else {
		b.WriteString(err.Error())
	}
	if _, err = ParseOptions("teeth.token=" + secret + "\x01"); err == nil {
		t.Error("control characters in a token are accepted")
	} else {
		b.WriteString(err.Error())
	}
	if strings.Contains(b.String(), secret) {
		t.Errorf("token is in %s", b.String())
	}
}

func FuzzParseOptions(f *testing.F) {
	for _, s := range []string{
		"teeth.server=a,b:1 teeth.ip=10.0.0.2/24,10.0.0.1 console=ttyS0,115200",
		`"a b"=c teeth.token="x y" BOOTIF=01-02-03-04-05-06-07 -- x`, `x="`, "teeth.ip=1.2.3.4/0,,", "a.b.c=d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, _ := ParseOptions(s)
		for _, srv := range o.Servers {
			if strings.ContainsAny(srv, " \n\t\x00,") {
				t.Errorf("server %q", srv)
			}
		}
		for _, c := range o.Consoles {
			if strings.Contains(c, "/") || strings.HasPrefix(c, ".") {
				t.Errorf("console %q", c)
			}
		}
		if o.VLAN < 0 || o.VLAN > 4094 || o.Watchdog < 0 || o.Panic < 0 {
			t.Errorf("out of range: %v", o)
		}
		if o.BootMAC != nil && len(o.BootMAC) != 6 {
			t.Errorf("MAC %v", o.BootMAC)
		}
	})
}
