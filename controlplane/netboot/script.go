package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
)

var (
	hostPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,62}(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*$`)
	portPattern = regexp.MustCompile(`^[0-9]{1,5}$`)
	macPattern  = regexp.MustCompile(`^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$`)
)

func isIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == ""
}

// splitHost takes a request's Host apart. It goes into a script and onto a
// kernel command line, so it is nothing but a name or address and a port.
func splitHost(hostport string) (host, port string, err error) {
	host = hostport
	if h, p, e := net.SplitHostPort(hostport); e == nil {
		if host, port = h, p; !portPattern.MatchString(port) {
			return "", "", fmt.Errorf("port %.20q", port)
		}
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if len(host) > 253 || !hostPattern.MatchString(host) && !isIP(host) {
		return "", "", errors.New("neither a name nor an address")
	}
	return host, port, nil
}

func joinHost(host, port string) string {
	if port == "" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}

// script answers iPXE. Its first request says nothing of the machine; the answer
// makes it ask again with MAC address and SMBIOS UUID.
func (s *server) script(w http.ResponseWriter, r *http.Request) {
	host, port, err := splitHost(r.Host)
	if err != nil {
		http.Error(w, "bad Host header", http.StatusBadRequest)
		return
	}
	base := "http://" + joinHost(host, port)
	if r.TLS != nil {
		base = "https://" + joinHost(host, port)
	}
	q := r.URL.Query()
	mac, id := strings.ToLower(q.Get("mac")), strings.ToLower(q.Get("uuid"))
	if mac == "" && id == "" {
		// ${netX/...} is the NIC that was booted from.
		reply(w, "#!ipxe\nchain --replace "+base+"/boot/ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}\n")
		return
	}
	if !macPattern.MatchString(mac) {
		http.Error(w, "mac: want six pairs of hexadecimal digits", http.StatusBadRequest)
		return
	}
	if id != "" && (uuid.Validate(id) != nil || len(id) != 36) {
		http.Error(w, "uuid: want the form 8-4-4-4-12", http.StatusBadRequest)
		return
	}
	mac = strings.ReplaceAll(mac, "-", ":")
	local, err := s.bootsItsDisk(r, id, mac)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if local {
		s.Log.Info("chassis boots its disk", "mac", mac)
		reply(w, localBoot)
		return
	}
	token := s.Token
	if s.BootToken != nil {
		if !s.mayWrite(w, r) {
			return
		}
		if token, err = s.BootToken(r.Context(), id, mac); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	s.Log.Info("chassis boots the ramdisk", "mac", mac)
	reply(w, s.ramdisk(base, host, mac, token))
}

// localBoot starts the installed system. UEFI firmware has no drive numbers: it
// goes on to its next boot entry, if iPXE ends with an error; after a success it
// would show its menu and wait (UEFI 2.10, 3.1.1). A BIOS numbers its disks as it likes, so each is
// tried; one without a boot sector is an error, which "||" passes over.
const localBoot = `#!ipxe
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 ||
sanboot --no-describe --drive 0x81 ||
sanboot --no-describe --drive 0x82 ||
sanboot --no-describe --drive 0x83 ||
exit
`

// bootsItsDisk reports whether a chassis has an installed system and nothing to
// do that needs the ramdisk. One that is unknown gets the ramdisk.
func (s *server) bootsItsDisk(r *http.Request, uuid, mac string) (bool, error) {
	c, err := s.Store.FindBooting(r.Context(), uuid, mac)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && c.InstalledAt != nil && c.OpenGraph == "", err
}

func (s *server) ramdisk(base, host, mac, token string) string {
	args := []string{
		"initrd=teeth-amd64.cpio.zst", // UEFI iPXE needs it to be named here
		"console=tty0", "console=ttyS0",
		"teeth.server=" + net.JoinHostPort(host, s.AgentsPort),
		"BOOTIF=01-" + strings.ReplaceAll(mac, ":", "-"),
		"teeth.ca_sha256=" + s.CAPin,
		"teeth.token=" + token,
	}
	if s.KernelArgs != "" {
		args = append(args, s.KernelArgs)
	}
	if s.MoreArgs != nil {
		if more := s.MoreArgs(); more != "" && safeArgs.MatchString(more) {
			args = append(args, more)
		}
	}
	args, shell := s.withShell(base, args)
	return "#!ipxe\n" +
		"kernel " + base + "/boot/vmlinuz-amd64 " + strings.Join(args, " ") + "\n" +
		"initrd " + base + "/boot/teeth-amd64.cpio.zst\n" +
		shell + "boot\n"
}

func reply(w http.ResponseWriter, script string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprint(w, script)
}

// calledBack is the event of a system that is up, with what cloud-init tells of
// it: its host keys are what an operator needs to log in.
func (s *server) calledBack(chassis string, r *http.Request) store.Event {
	e := store.Event{Chassis: chassis, Time: time.Now(), Message: "the installed system has called back"}
	fields := map[string]string{}
	if err := r.ParseForm(); err == nil {
		for _, k := range []string{"hostname", "fqdn", "instance_id", "pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519"} {
			if v := strings.TrimSpace(r.PostForm.Get(k)); v != "" && len(v) <= 4096 {
				fields[k] = strings.Map(printable, v)
			}
		}
	}
	if b, err := json.Marshal(fields); err == nil && len(fields) > 0 {
		e.Fields = b
	}
	return e
}

func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return -1
	}
	return r
}
