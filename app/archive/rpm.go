package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// The file format of rpm: https://rpm.org/docs/4.20.x/manual/format_v4.html.
// A lead of 96 bytes, a signature (a header, padded to 8 bytes), the header, and the
// payload, a compressed cpio archive.
const (
	rpmMagic   = "\xed\xab\xee\xdb"
	rpmLeadLen = 96
	rpmSource  = 1 // type of a source package in the lead
)

// Tags of the signature.
const (
	sigSHA1   = 269  // of the header, in hexadecimal
	sigSHA256 = 273  // of the header, in hexadecimal
	sigMD5    = 1004 // of header and payload, 16 bytes
)

// Tags of the header.
const (
	tagName          = 1000
	tagVersion       = 1001
	tagRelease       = 1002
	tagEpoch         = 1003
	tagSize          = 1009
	tagArch          = 1022
	tagPayloadFormat = 1124
	tagLongSize      = 5009
	tagPayloadDigest = 5092 // of the compressed payload, in hexadecimal
	tagPayloadAlgo   = 5093 // as in RFC 4880, section 9.4
)

// openRPM reads the headers and verifies every digest there is.
func (a *Reader) openRPM(r io.ReaderAt, size int64) error {
	lead := make([]byte, rpmLeadLen)
	if _, err := r.ReadAt(lead, 0); err != nil {
		return fmt.Errorf("%w: rpm: lead: %w", ErrFormat, unexpected(err))
	}
	if lead[4] != 3 && lead[4] != 4 {
		return fmt.Errorf("%w: rpm: version %d.%d", ErrFormat, lead[4], lead[5])
	}
	if lead[6] == 0 && lead[7] == rpmSource {
		return fmt.Errorf("%w: a source rpm: use one that is built", ErrFormat)
	}
	sig, err := readRPMHeader(r, rpmLeadLen, size)
	if err != nil {
		return fmt.Errorf("%w: rpm: signature: %w", ErrFormat, err)
	}
	begin := rpmLeadLen + sig.length
	begin += (8 - begin%8) % 8
	h, err := readRPMHeader(r, begin, size)
	if err != nil {
		return fmt.Errorf("%w: rpm: header: %w", ErrFormat, err)
	}
	payload := io.NewSectionReader(r, begin+h.length, size-begin-h.length)
	if err := verifyRPM(a.ctx, sig, h, io.NewSectionReader(r, begin, h.length), payload); err != nil {
		return err
	}
	a.describe(h)
	if f := h.text(tagPayloadFormat); f != "" && f != "cpio" {
		return fmt.Errorf("%w: rpm: payload is %.20q, not cpio", ErrFormat, f)
	}
	if _, err := payload.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := a.decompress(payload)
	if err != nil {
		return err
	}
	c := &cpio{r: bufio.NewReaderSize(z, 64<<10), links: map[cpioFile]*cpioLinks{}, special: &a.Special}
	a.next, a.data = c.next, c
	return nil
}

func (a *Reader) describe(h *rpmHeader) {
	a.Name, a.Version, a.Arch = h.text(tagName), h.text(tagVersion), h.text(tagArch)
	if rel := h.text(tagRelease); rel != "" {
		a.Version += "-" + rel
	}
	if epoch, ok := h.number(tagEpoch); ok && epoch > 0 {
		a.Version = fmt.Sprintf("%d:%s", epoch, a.Version)
	}
	if n, ok := h.number(tagLongSize); ok {
		a.Installed = n
	} else if n, ok := h.number(tagSize); ok {
		a.Installed = n
	}
}

// digest is one to be compared.
type digest struct {
	what string
	sum  hash.Hash
	want []byte
}

// verifyRPM compares all digests. Every rpm has one of the whole or of both parts; one
// without would be taken on trust, and is refused.
func verifyRPM(ctx context.Context, sig, h *rpmHeader, header, payload io.Reader) error {
	var head, body []digest
	var errs []error
	add := func(list *[]digest, what string, sum hash.Hash, want string) {
		b, err := hex.DecodeString(want)
		if err != nil || len(b) != sum.Size() {
			errs = append(errs, fmt.Errorf("%w: rpm: %s is malformed", ErrFormat, what))
			return
		}
		*list = append(*list, digest{what, sum, b})
	}
	if s := sig.text(sigSHA256); s != "" {
		add(&head, "SHA-256 of the header", sha256.New(), s)
	}
	if s := sig.text(sigSHA1); s != "" {
		add(&head, "SHA-1 of the header", sha1.New(), s)
	}
	if b := sig.bytes(sigMD5); b != nil {
		d := digest{"MD5 of header and payload", md5.New(), b}
		head = append(head, digest{sum: d.sum}) // takes the header in, compared below
		body = append(body, d)
	}
	if s := h.text(tagPayloadDigest); s != "" {
		algo, _ := h.number(tagPayloadAlgo)
		switch algo {
		case 8:
			add(&body, "SHA-256 of the payload", sha256.New(), s)
		case 10:
			add(&body, "SHA-512 of the payload", sha512.New(), s)
		default:
			errs = append(errs, fmt.Errorf("%w: rpm: payload digest of unknown algorithm %d", ErrFormat, algo))
		}
	}
	if len(head) == 0 || len(body) == 0 {
		errs = append(errs, fmt.Errorf("%w: rpm: it has no digest of its header and payload", ErrFormat))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := errors.Join(feed(ctx, head, header), feed(ctx, body, payload)); err != nil {
		return err
	}
	for _, d := range append(head, body...) {
		if d.want != nil && !bytes.Equal(d.sum.Sum(nil), d.want) {
			return fmt.Errorf("%w: rpm: %s does not match: the file is damaged", ErrFormat, d.what)
		}
	}
	return nil
}

// feed gives all of r to the digests.
func feed(ctx context.Context, list []digest, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		for _, d := range list {
			d.sum.Write(buf[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package: %w", err)
		}
	}
}

// GoArch returns Go's name of the package's architecture, "" for one that runs
// anywhere or is not told, and the package's own name for one not known.
func (a *Reader) GoArch() string {
	switch s := strings.ToLower(a.Arch); s {
	case "", "all", "any", "noarch", "(none)":
		return ""
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	default:
		return s
	}
}
