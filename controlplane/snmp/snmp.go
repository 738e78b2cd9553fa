// Package snmp reads objects of PDUs, switches and other devices over SNMP
// versions 2c (RFC 3416) and 3 (RFC 3414). It never sets any.
package snmp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gosnmp/gosnmp"
)

// Errors that calls of this package wrap.
var (
	ErrInvalid     = errors.New("invalid")
	ErrUnreachable = errors.New("SNMP device does not answer")
	ErrRefused     = errors.New("SNMP device refuses")
)

// Bounds of what is asked for and taken.
const (
	MaxOIDs  = 256    // of one Get
	MaxRows  = 10_000 // of one Walk
	maxBytes = 4 << 20
	maxText  = 4096 // of one value

	defaultPort = 161
	retries     = 2
	repetitions = 25 // rows asked for at a time; more do not fit into a datagram
)

// timeout is for one answer; a variable for tests.
var timeout = 3 * time.Second

// Target is a device and how to be admitted to it.
type Target struct {
	Address   string `json:"address"`             // host or host:port (161 unless given)
	Version   string `json:"version,omitempty"`   // "2c" (default) or "3"
	Community string `json:"community,omitempty"` // of version 2c
	User      string `json:"user,omitempty"`      // of version 3
	// AuthProtocol is SHA, SHA224, SHA256, SHA384, SHA512 or MD5; PrivProtocol is
	// AES, AES192, AES256 or DES. Without the first nothing is authenticated,
	// without the second nothing is encrypted.
	AuthProtocol string `json:"auth_protocol,omitempty"`
	AuthPassword string `json:"auth_password,omitempty"`
	PrivProtocol string `json:"priv_protocol,omitempty"`
	PrivPassword string `json:"priv_password,omitempty"`
	Context      string `json:"context,omitempty"` // of version 3, mostly none
}

var authProtocols = map[string]gosnmp.SnmpV3AuthProtocol{
	"MD5": gosnmp.MD5, "SHA": gosnmp.SHA, "SHA224": gosnmp.SHA224, "SHA256": gosnmp.SHA256, "SHA384": gosnmp.SHA384, "SHA512": gosnmp.SHA512,
}

var privProtocols = map[string]gosnmp.SnmpV3PrivProtocol{
	"DES": gosnmp.DES, "AES": gosnmp.AES, "AES192": gosnmp.AES192, "AES256": gosnmp.AES256,
}

// minPassword is what RFC 3414, section 11.2, asks for.
const minPassword = 8

// Check says whether there could be such a device.
func (t Target) Check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("SNMP device %.80q: %s: %w", t.Address, fmt.Sprintf(format, args...), ErrInvalid)
	}
	if _, _, err := t.hostPort(); err != nil {
		return err
	}
	_, auth := authProtocols[t.AuthProtocol]
	_, priv := privProtocols[t.PrivProtocol]
	switch {
	case t.Version == "" || t.Version == "2c":
		if t.Community == "" {
			return fail("version 2c needs a community")
		}
		if t.User != "" || t.AuthProtocol != "" || t.PrivProtocol != "" || t.AuthPassword != "" || t.PrivPassword != "" {
			return fail("user and passwords are of version 3")
		}
	case t.Version != "3":
		return fail("version %.20q: write 2c or 3", t.Version)
	case t.User == "":
		return fail("version 3 needs a user")
	case t.AuthProtocol != "" && !auth:
		return fail("authentication protocol %.20q: write SHA, SHA224, SHA256, SHA384, SHA512 or MD5", t.AuthProtocol)
	case t.PrivProtocol != "" && !priv:
		return fail("privacy protocol %.20q: write AES, AES192, AES256 or DES", t.PrivProtocol)
	case t.PrivProtocol != "" && t.AuthProtocol == "":
		return fail("nothing is encrypted without authentication: give an authentication protocol too")
	case auth && len(t.AuthPassword) < minPassword, priv && len(t.PrivPassword) < minPassword:
		return fail("passwords have at least %d characters", minPassword)
	case !auth && t.AuthPassword != "", !priv && t.PrivPassword != "":
		return fail("a password without its protocol")
	}
	return nil
}

// hostForm is of names and addresses, IPv6 with its zone among them.
var hostForm = regexp.MustCompile(`^[A-Za-z0-9._:%-]{1,253}$`)

func (t Target) hostPort() (string, uint16, error) {
	host, port := t.Address, strconv.Itoa(defaultPort)
	if h, p, err := net.SplitHostPort(t.Address); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || !hostForm.MatchString(host) || strings.Contains(host, ":") && !isAddress(host) {
		return "", 0, fmt.Errorf("SNMP device %.80q: write HOST or HOST:PORT: %w", t.Address, ErrInvalid)
	}
	return host, uint16(n), nil
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// Row is one object. Value is a number (integers beyond 2^53 as text), a text, or
// nil where the device has no such object.
type Row struct {
	OID   string `json:"oid"`
	Type  string `json:"type"` // as RFC 2578 names it, e.g. "Counter32"
	Value any    `json:"value"`
}

var oidForm = regexp.MustCompile(`^\.?[0-2](\.[0-9]{1,10})+$`)

// CheckOID says whether s is an object identifier in numbers.
func CheckOID(s string) error {
	if len(s) > 1024 || !oidForm.MatchString(s) {
		return fmt.Errorf("object identifier %.80q: write numbers, as in 1.3.6.1.2.1.1.1.0: %w", s, ErrInvalid)
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(s, "."), ".") {
		if n, err := strconv.ParseUint(part, 10, 64); err != nil || n > math.MaxUint32 {
			return fmt.Errorf("object identifier %.80q: %s is too large: %w", s, part, ErrInvalid)
		}
	}
	return nil
}

// open makes a client. Version 3 discovers the device's engine with the first request.
func (t Target) open(ctx context.Context) (*gosnmp.GoSNMP, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	host, port, err := t.hostPort()
	if err != nil {
		return nil, err
	}
	g := &gosnmp.GoSNMP{
		Target: host, Port: port, Transport: "udp", Context: ctx, Timeout: timeout, Retries: retries,
		MaxOids: MaxOIDs, MaxRepetitions: repetitions,
		Version: gosnmp.Version2c, Community: t.Community,
	}
	if t.Version == "3" {
		g.Version, g.SecurityModel, g.MsgFlags, g.ContextName = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.NoAuthNoPriv, t.Context
		p := &gosnmp.UsmSecurityParameters{UserName: t.User, AuthenticationProtocol: gosnmp.NoAuth, PrivacyProtocol: gosnmp.NoPriv}
		if t.AuthProtocol != "" {
			g.MsgFlags = gosnmp.AuthNoPriv
			p.AuthenticationProtocol, p.AuthenticationPassphrase = authProtocols[t.AuthProtocol], t.AuthPassword
		}
		if t.PrivProtocol != "" {
			g.MsgFlags = gosnmp.AuthPriv
			p.PrivacyProtocol, p.PrivacyPassphrase = privProtocols[t.PrivProtocol], t.PrivPassword
		}
		g.SecurityParameters = p
	}
	if err := g.Connect(); err != nil {
		return nil, t.explain(ctx, err)
	}
	return g, nil
}

func (t Target) explain(ctx context.Context, err error) error {
	for _, refusal := range []error{gosnmp.ErrUnknownUsername, gosnmp.ErrWrongDigest, gosnmp.ErrDecryption,
		gosnmp.ErrUnknownSecurityLevel, gosnmp.ErrUnknownSecurityModels, gosnmp.ErrNotInTimeWindow} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("SNMP device %s: %w: %w", t.Address, ErrRefused, err)
		}
	}
	// The library has no error of its own for it: a device reports, without
	// authentication, that it knows no such user or password.
	if t.Version == "3" && strings.Contains(err.Error(), "not authentic") {
		return fmt.Errorf("SNMP device %s: %w: user, password or protocol is wrong", t.Address, ErrRefused)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("SNMP device %s: %w: %w", t.Address, ErrUnreachable, ctx.Err())
	}
	hint := ""
	if t.Version != "3" && strings.Contains(err.Error(), "timeout") {
		hint = " (a device that does not know the community says nothing either)"
	}
	return fmt.Errorf("SNMP device %s: %w: %w%s", t.Address, ErrUnreachable, err, hint)
}

// run calls the library, which may panic on what a device answers.
func (t Target) run(ctx context.Context, f func(*gosnmp.GoSNMP) error) (err error) {
	g, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer g.Close()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("SNMP device %s: its answer cannot be decoded: %v", t.Address, p)
		}
	}()
	return f(g)
}

// Get reads objects. The rows come in the order of oids.
func Get(ctx context.Context, t Target, oids []string) ([]Row, error) {
	if len(oids) == 0 || len(oids) > MaxOIDs {
		return nil, fmt.Errorf("%d object identifiers: give 1 to %d: %w", len(oids), MaxOIDs, ErrInvalid)
	}
	for _, oid := range oids {
		if err := CheckOID(oid); err != nil {
			return nil, err
		}
	}
	rows := make([]Row, 0, len(oids))
	err := t.run(ctx, func(g *gosnmp.GoSNMP) error {
		for len(oids) > 0 {
			n := min(len(oids), repetitions)
			answer, err := g.Get(oids[:n])
			if err != nil {
				return t.explain(ctx, err)
			}
			if answer.Error != gosnmp.NoError {
				return fmt.Errorf("SNMP device %s: %w: %s for %v", t.Address, ErrRefused, answer.Error, oids[:n])
			}
			if len(answer.Variables) != n {
				return fmt.Errorf("SNMP device %s: it answers with %d objects to %d", t.Address, len(answer.Variables), n)
			}
			for _, v := range answer.Variables {
				rows = append(rows, row(v))
			}
			oids = oids[n:]
		}
		return nil
	})
	return rows, err
}

// errEnough ends a walk.
var errEnough = errors.New("enough rows")

// Walk reads all objects under root, but at most limit (MaxRows, if that is 0 or
// more), and says whether there are more.
func Walk(ctx context.Context, t Target, root string, limit int) (rows []Row, more bool, err error) {
	if err := CheckOID(root); err != nil {
		return nil, false, err
	}
	if limit <= 0 || limit > MaxRows {
		limit = MaxRows
	}
	rows = []Row{}
	size := 0
	err = t.run(ctx, func(g *gosnmp.GoSNMP) error {
		err := g.BulkWalk(root, func(v gosnmp.SnmpPDU) error {
			r := row(v)
			text, _ := r.Value.(string)
			if size += len(r.OID) + len(text); len(rows) == limit || size > maxBytes {
				return errEnough
			}
			rows = append(rows, r)
			return ctx.Err()
		})
		if errors.Is(err, errEnough) {
			more = true
			return nil
		}
		if err != nil {
			return t.explain(ctx, err)
		}
		return nil
	})
	return rows, more, err
}

// row takes what the library decoded.
func row(v gosnmp.SnmpPDU) Row {
	r := Row{OID: strings.TrimPrefix(v.Name, "."), Type: v.Type.String()}
	switch x := v.Value.(type) {
	case nil:
	case []byte:
		r.Value = text(x)
	case string:
		r.Value = text([]byte(x))
		if v.Type == gosnmp.ObjectIdentifier {
			r.Value = strings.TrimPrefix(x, ".")
		}
	case float32:
		r.Value = float(float64(x))
	case float64:
		r.Value = float(x)
	default:
		n := gosnmp.ToBigInt(x)
		if n.IsInt64() && n.Int64() <= 1<<53 && n.Int64() >= -1<<53 {
			r.Value = n.Int64()
		} else {
			r.Value = n.String()
		}
	}
	switch v.Type {
	case gosnmp.NoSuchObject, gosnmp.NoSuchInstance, gosnmp.EndOfMibView, gosnmp.Null:
		r.Value = nil
	}
	return r
}

func float(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) { // which JSON does not have
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return f
}

// text is an octet string as text where it is that, else in hexadecimal as
// net-snmp writes it ("52:54:00:12:34:56").
func text(b []byte) string {
	cut := len(b) > maxText
	b = b[:min(len(b), maxText)]
	for cut && len(b) > 0 && !utf8.Valid(b) && maxText-len(b) < utf8.UTFMax {
		b = b[:len(b)-1]
	}
	printable := utf8.Valid(b)
	for _, r := range string(b) {
		printable = printable && (unicode.IsPrint(r) || r == '\n' || r == '\r' || r == '\t')
	}
	if printable {
		return string(b)
	}
	var s strings.Builder
	for i, c := range b {
		if i > 0 {
			s.WriteByte(':')
		}
		fmt.Fprintf(&s, "%02x", c)
	}
	return s.String()
}
