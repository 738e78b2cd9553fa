// Package config writes an app's configuration, a JSON object that by convention maps
// sections to keys to values, in the form of a file that the app reads.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/app/manifest"
)

// Render returns the contents of the file.
//
// JSON is the object itself, indented. INI has what is no object first, and a section
// for each object, with its values; Env has NAME="value" lines, SECTION_NAME for what
// is in an object. There, texts stand as they are, and other values (numbers, lists,
// objects within objects) as JSON. Keys are sorted. A key or text that the format
// cannot hold is an error that names it.
func Render(f manifest.Format, config json.RawMessage) ([]byte, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(config, &top); err != nil {
		return nil, fmt.Errorf("config: want a JSON object: %w", err)
	}
	switch f {
	case manifest.JSON:
		var b bytes.Buffer
		if err := json.Indent(&b, config, "", "  "); err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		b.WriteByte('\n')
		return b.Bytes(), nil
	case manifest.INI:
		return render(top, ini{})
	case manifest.Env:
		return render(top, env{})
	}
	return nil, fmt.Errorf("config: unknown format %.20q", f)
}

// form is how lines look.
type form interface {
	section(b *bytes.Buffer, name string) error
	line(b *bytes.Buffer, section, key, value string) error
}

func render(top map[string]json.RawMessage, f form) ([]byte, error) {
	var b bytes.Buffer
	sections := map[string]map[string]json.RawMessage{}
	for _, k := range slices.Sorted(maps.Keys(top)) {
		var s map[string]json.RawMessage
		if json.Unmarshal(top[k], &s) == nil && s != nil {
			sections[k] = s
			continue
		}
		if err := f.line(&b, "", k, text(top[k])); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		if err := f.section(&b, name); err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(sections[name])) {
			if err := f.line(&b, name, k, text(sections[name][k])); err != nil {
				return nil, err
			}
		}
	}
	return b.Bytes(), nil
}

// text is a value as it stands in a file.
func text(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil && !bytes.Equal(bytes.TrimSpace(v), []byte("null")) {
		return s
	}
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return string(v)
	}
	return b.String()
}

type ini struct{}

func (ini) section(b *bytes.Buffer, name string) error {
	if name == "" || strings.ContainsAny(name, "[]\r\n\x00") {
		return fmt.Errorf("config: %.80q cannot be a section of an INI file", name)
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "[%s]\n", name)
	return nil
}

func (ini) line(b *bytes.Buffer, section, key, value string) error {
	if strings.TrimSpace(key) != key || key == "" || strings.ContainsAny(key, "=:\r\n\x00") || strings.ContainsAny(key[:1], "[#;") {
		return fmt.Errorf("config: key %.80q of section %.80q cannot stand in an INI file", key, section)
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("config: the value of %.80q in section %.80q has a line end: an INI file cannot hold it", key, section)
	}
	fmt.Fprintf(b, "%s = %s\n", key, value)
	return nil
}

var nameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

type env struct{}

func (env) section(*bytes.Buffer, string) error { return nil }

var envQuote = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")

func (env) line(b *bytes.Buffer, section, key, value string) error {
	if section != "" {
		key = section + "_" + key
	}
	if !nameRE.MatchString(key) {
		return fmt.Errorf("config: %.80q cannot be the name of a variable", key)
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("config: the value of %.80q has a line end: a file of variables cannot hold it", key)
	}
	fmt.Fprintf(b, "%s=\"%s\"\n", key, envQuote.Replace(value))
	return nil
}
