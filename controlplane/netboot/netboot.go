// Package netboot serves what chassis fetch over HTTP: iPXE, the boot script, the
// appliance image, and OS images; and it takes the calls of installed systems
// that are up. Nothing else can be changed through it. Packages dhcp, dhcp6 and
// tftp below it bring chassis here.
//
// Plain HTTP is what boot ROMs speak. The script holds the pin of the control
// plane's CA and a token that admits the chassis once, so whoever can read or
// forge traffic on the provisioning network can introduce itself as that chassis;
// OS images are verified by digests that travel over TLS.
package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/minion/release"
	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// maxPhoneHome bounds the body of a call: three SSH host keys and some names.
const maxPhoneHome = 64 << 10

// bodyStall is how long a request's body may take. It is a variable for tests.
var bodyStall = time.Minute

// Config of the boot server.
type Config struct {
	Store *store.Store
	// Image opens the file of an OS image.
	Image   func(store.Image) (*os.File, error)
	BootDir string // where the appliance image lies
	// IPXEDirs are where iPXE lies; nil: bootfile.DefaultIPXEDirs.
	IPXEDirs []string
	// CapabilityKey makes downloads of OS images need a capability; "": they do not.
	CapabilityKey string
	Log           *slog.Logger

	// What the script puts on the kernel's command line.
	AgentsPort string // of the agents' listener, on the host the chassis reaches us by
	CAPin      string
	Token      string // enrolment token of the estate, for chassis without one of their own
	KernelArgs string // further parameters, as they are
	// MoreArgs returns further ones that change while the server runs; may be nil.
	MoreArgs func() string
	// BootToken makes a one-time token for a machine; nil: Token is given instead.
	BootToken func(ctx context.Context, uuid, mac string) (string, error)
	// Nodes answers below /api/, with limits of its own; nil: nobody does. See
	// package controlplane/rackhd/node.
	Nodes http.Handler
	// Versions answers GET /api/v1/minion, the version URL of agents; nil: nobody does.
	// See package controlplane/minion/release.
	Versions http.Handler
	// Observe is told of every response: its route, status, time and bytes of body;
	// nil: nobody is.
	Observe func(route string, status int, took time.Duration, sent int64)
}

// Handler returns the server's routes. It fails if a setting could not stand in
// a boot script.
func Handler(c Config) (http.Handler, error) {
	for name, v := range map[string]string{"kernel arguments": c.KernelArgs, "enrolment token": c.Token} {
		if len(v) > 1500 || !safeArgs.MatchString(v) {
			return nil, fmt.Errorf("%s: want up to 1500 characters of printable ASCII without quotes, '$', '{', '|', '&' and '\\'", name)
		}
	}
	if c.IPXEDirs == nil {
		c.IPXEDirs = bootfile.DefaultIPXEDirs
	}
	s := &server{Config: c, dirs: bootfile.Dirs{Boot: c.BootDir, IPXE: c.IPXEDirs}, notices: rate.NewLimiter(noticeRate, noticeBurst), rates: newRates(), quiet: rate.NewLimiter(rate.Every(10*time.Second), 5)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot/ipxe", s.script)
	mux.HandleFunc("GET /boot/{file}", s.bootFile)
	mux.HandleFunc("GET /images/{id}", s.image)
	mux.HandleFunc("POST /phone_home/{token}", s.phoneHome)
	if c.Versions != nil {
		mux.Handle("GET "+release.Path, c.Versions)
	}
	files := http.MaxBytesHandler(impatient(s.noticed(mux)), maxPhoneHome)
	if c.Nodes == nil {
		return files, nil
	}
	nodes := s.noticed(c.Nodes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") && (c.Versions == nil || r.URL.Path != release.Path) {
			nodes.ServeHTTP(w, r)
			return
		}
		files.ServeHTTP(w, r)
	}), nil
}

// impatient bounds the time for a body. The server waits for what is left of it
// even where no handler reads it, and would without end.
func impatient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// What cannot have a deadline is no connection, but a test.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyStall))
		}
		h.ServeHTTP(w, r)
	})
}

type server struct {
	Config
	dirs    bootfile.Dirs
	notices *rate.Limiter
	rates   *rates
	quiet   *rate.Limiter // of complaints about those that ask too often
}

// safeArgs keeps what iPXE would expand or take for the start of a command off
// the script's lines.
var safeArgs = regexp.MustCompile(`^[A-Za-z0-9 !#%()*+,./:;<=>?@\[\]^_~-]*$`)

func (s *server) bootFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	f, info, err := s.dirs.Open(name)
	if err != nil {
		if strings.HasPrefix(name, "vmlinuz-") || strings.HasPrefix(name, "teeth-") {
			s.Log.Error("cannot serve a boot file: build it with `teeth initramfs build`", "error", err)
		}
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", contentType(name))
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.Size(), info.ModTime().UnixNano()))
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// contentType is by a file's ending. UEFI takes an EFI program and a disk image by
// these types or by the ending of their names.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".zst":
		return "application/zstd"
	case ".json":
		return "application/json"
	case ".efi":
		return "application/efi"
	case ".iso":
		return "application/vnd.efi-iso"
	}
	return "application/octet-stream"
}

func (s *server) image(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if uuid.Validate(id) != nil { // a name would do for the store, but is nobody's business here
		http.NotFound(w, r)
		return
	}
	if s.CapabilityKey != "" {
		if err := images.CheckCapability(s.CapabilityKey, id, r.URL.Query().Get(images.CapabilityParameter), time.Now()); err != nil {
			s.Log.Warn("download of an image refused", "image", id, "address", r.RemoteAddr, "error", err)
			http.Error(w, "this URL is not, or no longer, good for the image", http.StatusForbidden)
			return
		}
	}
	img, err := s.Store.Image(r.Context(), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	f, err := s.Image(img)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+img.SHA256+`"`)
	http.ServeContent(w, r, "", img.Created, f)
}

// phoneHome is what cloud-init's phone_home calls with post: all.
func (s *server) phoneHome(w http.ResponseWriter, r *http.Request) {
	if !s.mayWrite(w, r) {
		return
	}
	chassis, first, err := s.Store.PhoneHome(r.Context(), r.PathValue("token"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if first {
		s.Log.Info("the installed system has called back", "chassis", chassis, "address", r.RemoteAddr)
		if err := s.Store.AddEvent(r.Context(), s.calledBack(chassis, r)); err != nil {
			s.Log.Error("cannot record the call of an installed system", "chassis", chassis, "error", err)
		}
	}
	io.WriteString(w, "ok\n")
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound):
		http.NotFound(w, r)
	case errors.Is(err, store.ErrConflict):
		http.Error(w, "not now", http.StatusConflict)
	case errors.Is(err, store.ErrUnavailable): // a database that is away, an image on its way from another server
		s.Log.Warn("boot server", "path", pathForLog(r.URL), "error", err)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "not now", http.StatusServiceUnavailable)
	default:
		if r.Context().Err() == nil {
			s.Log.Error("boot server", "path", pathForLog(r.URL), "error", err)
		}
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}

// pathForLog leaves the token out.
func pathForLog(u *url.URL) string {
	if strings.HasPrefix(u.Path, "/phone_home/") {
		return "/phone_home/…"
	}
	return fmt.Sprintf("%.128q", u.Path)
}

// Serve serves h on l until ctx ends. Transfers of images may take hours, so only
// requests' headers have a deadline; l should have TCP_USER_TIMEOUT set, so that
// a chassis that vanishes in the middle of a transfer holds nothing.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         newLimiter().connState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("boot server on %s: %w", l.Addr(), err)
	}
	return nil
}
