// Package configdrive builds the config drive of OpenStack and places it on a
// disk, where cloud-init finds it by its label "config-2".
//
// The drive is an ISO 9660 file system with Rock Ridge and Joliet names. The same
// content always gives the same bytes. It holds the metadata twice, below
// openstack/latest and below a dated version that cloud-init accepts, sharing the
// bytes, and the content files below openstack/content.
package configdrive

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Label is the volume label that cloud-init looks for.
const Label = "config-2"

// MaxSize is the limit of a whole drive in bytes, that of OpenStack.
const MaxSize = 64 << 20

const (
	// version is the newest metadata format that cloud-init reads.
	version  = "2018-08-27"
	maxFiles = 4096
)

// Content is what the installed system is told.
type Content struct {
	// MetaData is the object of meta_data.json. Without a "uuid", which
	// cloud-init needs as the instance id, one is derived from the content.
	MetaData    json.RawMessage
	NetworkData json.RawMessage // network_data.json; absent when empty
	VendorData  json.RawMessage // vendor_data.json; absent when empty
	UserData    []byte          // user_data, any format cloud-init knows; absent when empty
	// Files maps absolute paths in the installed system to what cloud-init
	// writes there.
	Files map[string][]byte
}

// contentFile is one element of "files" in meta_data.json.
type contentFile struct {
	ContentPath string `json:"content_path"`
	Path        string `json:"path"`
}

// Build makes the drive. It fails on content that is not valid JSON, on paths
// that are not absolute and clean, and when the drive would exceed MaxSize. The
// Drive refers to the slices in c, which must not be changed while it is in use.
func Build(c Content) (*Drive, error) {
	total := len(c.MetaData) + len(c.NetworkData) + len(c.VendorData) + len(c.UserData)
	for _, b := range c.Files {
		total += len(b)
	}
	if total > MaxSize {
		return nil, fmt.Errorf("config drive: %d bytes of content, the limit is %d", total, MaxSize)
	}
	if len(c.Files) > maxFiles {
		return nil, fmt.Errorf("config drive: %d files, the limit is %d", len(c.Files), maxFiles)
	}
	content := &dir{name: "content"}
	var files []contentFile
	for i, p := range slices.Sorted(maps.Keys(c.Files)) {
		if err := checkPath(p); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("%04d", i)
		content.add(name, c.Files[p])
		files = append(files, contentFile{"/content/" + name, p})
	}
	meta, err := metaData(c, files)
	if err != nil {
		return nil, err
	}
	latest := &dir{name: "latest"}
	latest.add("meta_data.json", meta)
	for _, f := range []struct {
		name string
		data json.RawMessage
	}{{"network_data.json", c.NetworkData}, {"vendor_data.json", c.VendorData}} {
		if len(f.data) == 0 {
			continue
		}
		if !json.Valid(f.data) {
			return nil, fmt.Errorf("config drive: %s is not valid JSON", f.name)
		}
		latest.add(f.name, f.data)
	}
	if len(c.UserData) > 0 {
		latest.add("user_data", c.UserData)
	}
	dated := &dir{name: version, files: latest.files}
	openstack := &dir{name: "openstack", dirs: []*dir{dated, latest}}
	if len(files) > 0 {
		openstack.dirs = append(openstack.dirs, content)
	}
	d, err := layOut(&dir{dirs: []*dir{openstack}})
	if err != nil {
		return nil, err
	}
	if d.Size() > MaxSize {
		return nil, fmt.Errorf("config drive: %d bytes, the limit is %d", d.Size(), MaxSize)
	}
	return d, nil
}

// metaData completes meta_data.json with the instance id and the list of files.
func metaData(c Content, files []contentFile) ([]byte, error) {
	meta := map[string]json.RawMessage{}
	if len(c.MetaData) > 0 {
		if err := json.Unmarshal(c.MetaData, &meta); err != nil {
			return nil, fmt.Errorf("config drive: meta_data.json is not a JSON object: %w", err)
		}
		if meta == nil { // "null"
			meta = map[string]json.RawMessage{}
		}
	}
	for _, key := range []string{"uuid", "hostname"} {
		var s string
		if v, ok := meta[key]; ok && (json.Unmarshal(v, &s) != nil || s == "") {
			return nil, fmt.Errorf("config drive: %q in meta_data.json is not a string with something in it", key)
		}
	}
	if _, ok := meta["files"]; ok {
		return nil, errors.New(`config drive: meta_data.json has its own "files": give the files as content instead`)
	}
	if len(files) > 0 {
		b, err := json.Marshal(files)
		if err != nil {
			return nil, fmt.Errorf("config drive: list of files: %w", err)
		}
		meta["files"] = b
	}
	if _, ok := meta["uuid"]; !ok {
		id, err := json.Marshal(contentID(c))
		if err != nil {
			return nil, fmt.Errorf("config drive: uuid: %w", err)
		}
		meta["uuid"] = id
	}
	b, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("config drive: meta_data.json: %w", err)
	}
	return b, nil
}

// contentID is a UUID of version 8 (RFC 9562) made of the content's digest: the
// same content stays the same instance to cloud-init.
func contentID(c Content) string {
	h := sha256.New()
	field := func(b []byte) {
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
	}
	for _, b := range [][]byte{c.MetaData, c.NetworkData, c.VendorData, c.UserData} {
		field(b)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Files)) {
		field([]byte(p))
		field(c.Files[p])
	}
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func checkPath(p string) error {
	bad := func(r rune) bool { return unicode.IsControl(r) }
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) >= 4096 ||
		!utf8.ValidString(p) || strings.ContainsFunc(p, bad) {
		return fmt.Errorf("config drive: file path %.200q: want an absolute path without \"..\", such as /etc/motd", p)
	}
	return nil
}
