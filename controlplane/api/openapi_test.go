package api

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/controlplane/backbone"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
)

type document struct {
	Paths      map[string]map[string]any `yaml:"paths"`
	Components struct {
		Schemas map[string]struct {
			Properties map[string]any `yaml:"properties"`
		} `yaml:"schemas"`
	} `yaml:"components"`
}

func parse(t *testing.T) (document, map[string]any) {
	t.Helper()
	var d document
	var raw map[string]any
	if err := yaml.Unmarshal(description, &d); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(description, &raw); err != nil {
		t.Fatal(err)
	}
	return d, raw
}

func TestDescriptionHasEveryRouteAndNoOther(t *testing.T) {
	d, _ := parse(t)
	var described []string
	for path, operations := range d.Paths {
		for method := range operations {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	served := []string{"GET /v1/openapi.yaml"}
	for _, r := range routes {
		served = append(served, r.pattern)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described: %q\nserved:    %q", described, served)
	}
}

// fields are the JSON names of a struct's fields.
func fields(v any) []string {
	var names []string
	var walk func(reflect.Type)
	walk = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous:
				walk(f.Type)
			case name != "" && name != "-":
				names = append(names, name)
			}
		}
	}
	walk(reflect.TypeOf(v))
	slices.Sort(names)
	return names
}

// What the server encodes, what the client decodes, and what the description
// says of it have the same fields.
func TestSchemasAgree(t *testing.T) {
	d, _ := parse(t)
	for name, pair := range map[string][2]any{
		"Chassis":         {store.Chassis{}, client.Chassis{}},
		"Task":            {store.Task{}, client.Task{}},
		"Graph":           {store.Graph{}, client.Graph{}},
		"GraphDefinition": {definition.Graph{}, client.GraphDefinition{}},
		"TaskDefinition":  {definition.Task{}, client.TaskDefinition{}},
		"Image":           {store.Image{}, client.Image{}},
		"LogEvent":        {store.Event{}, client.LogEvent{}},
		"Decommission":    {workflow.Decommission{}, client.Decommission{}},
		"Provision":       {workflow.Provision{}, client.Provision{}},
		"BMC":             {store.BMC{}, client.BMC{}},
		"NewBMC":          {NewBMC{}, client.NewBMC{}},
		"BMCInfo":         {power.Info{}, client.BMCInfo{}},
		"BootDevice":      {power.Boot{}, client.BootDevice{}},
		"EventLog":        {power.EventLog{}, client.EventLog{}},
		"SELEvent":        {power.Event{}, client.SELEvent{}},
		"Sensor":          {power.Sensor{}, client.Sensor{}},
		"SNMPQuery":       {poller.Query{}, client.SNMPQuery{}},
		"SNMPRow":         {snmp.Row{}, client.SNMPRow{}},
		"PollerSpec":      {poller.Spec{}, client.PollerSpec{}},
		"Poller":          {poller.View{}, client.Poller{}},
		"PollerResult":    {store.PollerResult{}, client.PollerResult{}},
		"Alert":           {store.Alert{}, client.Alert{}},
		"SKU":             {store.SKU{}, client.SKU{}},
		"Catalog":         {store.Catalog{}, client.Catalog{}},
		"AppHost":         {backbone.Host{}, client.AppHost{}},
		"App":             {backbone.App{}, client.App{}},
		"SKUAssignment":   {store.SKUAssignment{}, client.SKUAssignment{}},
		"LogLine":         {records.Log{}, client.LogLine{}},
		"Measurement":     {records.Measurement{}, client.Measurement{}},
		"NewCommand":      {NewCommand{}, client.NewCommand{}},
		"Command":         {records.Command{}, client.Command{}},
		"Run":             {records.Run{}, client.Run{}},
		"Output":          {Output{}, client.Output{}},
	} {
		var described []string
		for p := range d.Components.Schemas[name].Properties {
			described = append(described, p)
		}
		slices.Sort(described)
		if server, c := fields(pair[0]), fields(pair[1]); !slices.Equal(server, described) || !slices.Equal(c, described) {
			t.Errorf("%s:\ndescribed %q\nserver    %q\nclient    %q", name, described, server, c)
		}
	}
}

func TestReferencesResolve(t *testing.T) {
	_, raw := parse(t)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				var at any = raw
				for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[part]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(raw)
	if _, err := json.Marshal(raw); err != nil {
		t.Errorf("not expressible as JSON: %v", err)
	}
}
