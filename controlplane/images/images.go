// Package images takes OS images in, keeps their files, and gives them out.
//
// An image's file is named by its id and is complete: it appears under that name
// only after all of it has reached the disk, and in the store after that.
package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// ErrInvalid is wrapped by errors that say what is wrong with an image or a
// request, as opposed to what went wrong with storing it.
var ErrInvalid = errors.New("invalid image")

// ErrFetch is wrapped by errors of the server that an image is fetched from.
var ErrFetch = errors.New("cannot fetch the image")

// DefaultMaxSize bounds an image's file unless Library.MaxSize says otherwise.
const DefaultMaxSize = 256 << 30

// magics are what the formats begin with. A raw disk begins with anything else.
var magics = map[string][]byte{
	"raw":     nil,
	"raw.gz":  {0x1f, 0x8b},
	"raw.zst": {0x28, 0xb5, 0x2f, 0xfd},
	"raw.xz":  {0xfd, '7', 'z', 'X', 'Z', 0},
	"qcow2":   {'Q', 'F', 'I', 0xfb},
}

// foreign are formats that would boot nowhere if written as a raw disk.
var foreign = map[string][]byte{
	"VMDK":  []byte("KDMV"),
	"VHDX":  []byte("vhdxfile"),
	"VHD":   []byte("conectix"),
	"bzip2": []byte("BZh"),
	"ZIP":   []byte("PK\x03\x04"),
}

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Library keeps the files in a directory. It is safe for concurrent use.
type Library struct {
	dir     string
	store   *store.Store
	maxSize int64
	client  *http.Client
	key     string
	log     *slog.Logger
	ctx     context.Context // of transfers from other servers

	slots  chan struct{} // as many as may go on at once
	mu     sync.Mutex
	copies map[string]*copying // by image
}

// Config of a Library.
type Config struct {
	Dir     string // made if absent
	Store   *store.Store
	MaxSize int64 // bytes; 0: DefaultMaxSize
	// AllowLoopback lets Fetch connect to this machine. Without it a request
	// cannot be used to reach services that listen only here.
	AllowLoopback bool

	// Key makes capabilities for the other servers of an estate (secrets.key).
	Key string
	Log *slog.Logger // nothing is logged unless set
}

// Open returns the library, whose transfers from other servers end with ctx, and removes what a crash has left in its directory:
// uploads that were cut short, and files of images that are not in the store.
func Open(ctx context.Context, c Config) (*Library, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	l := &Library{dir: c.Dir, store: c.Store, maxSize: c.MaxSize, client: fetchClient(c.AllowLoopback),
		key: c.Key, log: c.Log, ctx: ctx, slots: make(chan struct{}, maxCopies), copies: map[string]*copying{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.maxSize <= 0 {
		l.maxSize = DefaultMaxSize
	}
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	for _, f := range files {
		name := f.Name()
		keep := !strings.HasPrefix(name, uploadPrefix)
		if keep && uuid.Validate(name) == nil {
			_, err := c.Store.Image(ctx, name)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
			if keep = err == nil; keep {
				if err := c.Store.AddImageCopy(ctx, name); err != nil {
					return nil, err
				}
			}
		}
		if !keep {
			if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
				return nil, fmt.Errorf("images: %w", err)
			}
		}
	}
	return l, nil
}

const uploadPrefix = "upload-"

// Request describes an image to be added.
type Request struct {
	Name   string
	Format string // declared; the contents must agree
	SHA256 string // of the file, if known: hexadecimal, or ""
}

func (r *Request) check() error {
	r.SHA256 = strings.ToLower(r.SHA256)
	_, known := magics[r.Format]
	switch {
	case !namePattern.MatchString(r.Name):
		return fmt.Errorf("%w: name %.140q: want 1 to 128 letters, digits, '.', '_', '+' or '-', starting with a letter or digit", ErrInvalid, r.Name)
	case !known:
		return fmt.Errorf("%w: format %.20q: want raw, raw.gz, raw.zst, raw.xz or qcow2", ErrInvalid, r.Format)
	case r.SHA256 != "" && !digestPattern.MatchString(r.SHA256):
		return fmt.Errorf("%w: sha256 %.70q: want 64 hexadecimal digits", ErrInvalid, r.SHA256)
	}
	return nil
}

// checkMagic holds the first bytes of a file against the format it is said to
// have. What it says decides nothing else (CVE-2024-44082).
func checkMagic(format string, head []byte) error {
	if magic := magics[format]; magic != nil {
		if !bytes.HasPrefix(head, magic) {
			return fmt.Errorf("%w: its contents are not %s", ErrInvalid, format)
		}
		return nil
	}
	for other, magic := range magics {
		if magic != nil && bytes.HasPrefix(head, magic) {
			return fmt.Errorf("%w: declared raw, but its contents are %s: declare that format", ErrInvalid, other)
		}
	}
	for other, magic := range foreign {
		if bytes.HasPrefix(head, magic) {
			return fmt.Errorf("%w: its contents are %s: convert it to raw or qcow2 first", ErrInvalid, other)
		}
	}
	return nil
}

// Add stores what r reads as an image. Nothing remains of one that is refused.
func (l *Library) Add(ctx context.Context, req Request, r io.Reader) (store.Image, error) {
	if err := req.check(); err != nil {
		return store.Image{}, err
	}
	// Refused before hours of transfer rather than after; AddImage decides.
	if _, err := l.store.Image(ctx, req.Name); err == nil {
		return store.Image{}, fmt.Errorf("an image named %q exists: choose another name or remove it: %w", req.Name, store.ErrConflict)
	} else if !errors.Is(err, store.ErrNotFound) {
		return store.Image{}, err
	}
	img, err := l.add(ctx, req, r)
	if err != nil {
		return store.Image{}, fmt.Errorf("image %s: %w", req.Name, err)
	}
	return l.store.Image(ctx, img.ID)
}

func (l *Library) add(ctx context.Context, req Request, r io.Reader) (img store.Image, err error) {
	f, err := os.CreateTemp(l.dir, uploadPrefix)
	if err != nil {
		return img, err
	}
	path := f.Name()
	defer func() {
		f.Close()
		if err != nil && path != "" {
			os.Remove(path)
		}
	}()
	head := make([]byte, 512)
	n, err := io.ReadFull(r, head)
	switch {
	case n == 0 && err == io.EOF:
		return img, fmt.Errorf("%w: it is empty", ErrInvalid)
	case err != nil && err != io.ErrUnexpectedEOF:
		return img, err
	}
	// ErrUnexpectedEOF is also what a body that was cut short ends with; reading
	// on tells the two apart, since such a body repeats its error.
	head = head[:n]
	if err := checkMagic(req.Format, head); err != nil {
		return img, err
	}
	sum := sha256.New()
	body := io.MultiReader(bytes.NewReader(head), r)
	size, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, sum)}, &limited{ctx: ctx, r: body, left: l.maxSize}, make([]byte, 1<<20))
	if err != nil {
		return img, err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	if req.SHA256 != "" && req.SHA256 != digest {
		return img, fmt.Errorf("%w: its sha256 is %s, expected %s", ErrInvalid, digest, req.SHA256)
	}
	if err := f.Sync(); err != nil {
		return img, err
	}
	img = store.Image{ID: uuid.NewString(), Name: req.Name, Format: req.Format, Size: size, SHA256: digest}
	final := filepath.Join(l.dir, img.ID)
	if err := os.Rename(path, final); err != nil {
		return img, err
	}
	path = final
	if err := syncDir(l.dir); err != nil {
		return img, err
	}
	if err := l.store.AddImage(ctx, img); err != nil {
		if errors.Is(err, store.ErrInDoubt) {
			path = "" // the image may be there; if not, its file is removed later
		}
		return img, err
	}
	if err := l.store.AddImageCopy(context.WithoutCancel(ctx), img.ID); err != nil {
		l.log.Warn("the other servers do not know yet that this one has an image", "image", img.Name, "error", err)
	}
	return img, nil
}

// limited ends with an error when more than left bytes come or ctx is done.
type limited struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%w: it is larger than this server takes", ErrInvalid)
	}
	return n, err
}

// File opens an image's file for reading. If another server of the estate has it,
// it is copied first; when that takes long the error wraps store.ErrUnavailable
// and the caller is to ask again.
func (l *Library) File(img store.Image) (*os.File, error) {
	if err := uuid.Validate(img.ID); err != nil { // it becomes a file name
		return nil, fmt.Errorf("image %.64q: %w", img.ID, store.ErrNotFound)
	}
	f, err := os.OpenFile(filepath.Join(l.dir, img.ID), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) && l.store.Shared() {
		return l.elsewhere(img)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	return f, nil
}

// Remove deletes an image. One that a task still needs is store.ErrConflict.
func (l *Library) Remove(ctx context.Context, ref string) error {
	img, err := l.store.Image(ctx, ref)
	if err != nil {
		return err
	}
	if err := l.store.RemoveImage(ctx, img.ID); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, img.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %s: %w", img.Name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
