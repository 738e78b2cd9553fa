package api

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"

	"gopkg.in/yaml.v3"
)

//go:embed openapi/*.yaml
var fragments embed.FS

// description is the OpenAPI document that the server serves: the first fragment,
// to which each of the others adds paths and components.
var description = func() []byte {
	b, err := describe(fragments)
	if err != nil {
		panic(err) // the fragments are part of the program, and a test reads them
	}
	return b
}()

func describe(files fs.FS) ([]byte, error) {
	names, err := fs.Glob(files, "openapi/*.yaml") // sorted
	if err != nil {
		return nil, err
	}
	var whole *yaml.Node
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(b, &doc); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(doc.Content) == 0 {
			continue
		}
		if whole == nil {
			whole = doc.Content[0]
			continue
		}
		if err := merge(whole, doc.Content[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(whole); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// merge adds the keys of mapping from to mapping into. A key that both have must
// be a mapping in both.
func merge(into, from *yaml.Node) error {
	if into.Kind != yaml.MappingNode || from.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: is there already", from.Line)
	}
keys:
	for i := 0; i+1 < len(from.Content); i += 2 {
		key, value := from.Content[i], from.Content[i+1]
		for j := 0; j+1 < len(into.Content); j += 2 {
			if into.Content[j].Value == key.Value {
				if err := merge(into.Content[j+1], value); err != nil {
					return fmt.Errorf("%s: %w", key.Value, err)
				}
				continue keys
			}
		}
		into.Content = append(into.Content, key, value)
	}
	return nil
}
