package definition

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func anyJob(string) bool { return true }

func task(t *testing.T, text string) Task {
	t.Helper()
	d, err := ParseTask([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func graph(t *testing.T, text string) Graph {
	t.Helper()
	g, err := ParseGraph([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// library has a task with options, one without, a variant, and one with
// properties on either side.
func library(t *testing.T) Library {
	return NewLibrary(nil, []Task{
		task(t, `{injectableName: Task.Image, runJob: Job.Image, requiredOptions: [image], options: {boot: auto, note: null}}`),
		task(t, `{injectableName: Task.Plain, runJob: Job.Plain}`),
		task(t, `{injectableName: Task.Kexec, implementsTask: Task.Image, options: {boot: kexec}}`),
		task(t, `{injectableName: Task.OS, runJob: Job.OS, properties: {os: linux}}`),
		task(t, `{injectableName: Task.NeedsOS, runJob: Job.OS, requiredProperties: {os: linux}}`),
	})
}

func TestJSONAndYAMLMeanTheSame(t *testing.T) {
	fromYAML := graph(t, `
injectableName: Graph.A
friendlyName: both ways
options:
  defaults: {image: x}
  second: {boot: reboot}
tasks:
  - label: first
    taskName: Task.Image
    timeout: 90s
    retries: 2
  - label: second
    taskDefinition: {injectableName: Task.Inline, runJob: Job.X, options: {boot: null, n: 12345678901234567}}
    waitOn: {first: [succeeded, failed], anyOf: {first: finished}}
    ignoreFailure: true
`)
	fromJSON := graph(t, `{"injectableName":"Graph.A","friendlyName":"both ways","options":{"defaults":{"image":"x"},"second":{"boot":"reboot"}},
		"tasks":[{"label":"first","taskName":"Task.Image","timeout":90000,"retries":2},
		{"label":"second","taskDefinition":{"injectableName":"Task.Inline","runJob":"Job.X","options":{"boot":null,"n":12345678901234567}},
		"waitOn":{"first":["succeeded","failed"],"anyOf":{"first":"finished"}},"ignoreFailure":true}]}`)
	if !reflect.DeepEqual(fromYAML, fromJSON) {
		t.Errorf("YAML %+v\nJSON %+v", fromYAML, fromJSON)
	}
	if d := time.Duration(fromYAML.Tasks[0].Timeout); d != 90*time.Second {
		t.Errorf("timeout %v", d)
	}
	again, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	if g := graph(t, string(again)); !reflect.DeepEqual(g, fromYAML) {
		t.Errorf("written and read again: %+v, was %+v", g, fromYAML)
	}
}

func TestMistakes(t *testing.T) {
	lib := library(t)
	jobs := func(name string) bool { return name != "Job.Nobody" }
	const head = "injectableName: Graph.A\ntasks:\n"
	for name, c := range map[string]struct{ text, want string }{
		"empty":               {" ", "empty"},
		"not UTF-8":           {"\xff", "UTF-8"},
		"two documents":       {"a: 1\n---\nb: 2", "more than one"},
		"alias":               {"injectableName: &a Graph.A\nfriendlyName: *a", "aliases"},
		"key twice":           {"injectableName: Graph.A\ninjectableName: Graph.B", "twice"},
		"deep":                {"a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "nests deeper"},
		"large":               {strings.Repeat("x", MaxSize+1), "bytes"},
		"unknown key":         {head + "  - {label: a, taskName: Task.Plain, ignoreFailures: true}", `"ignoreFailures"`},
		"wrong type":          {head + "  - {label: 1, taskName: Task.Plain}", "label"},
		"name":                {"injectableName: Graph/A\ntasks: [{label: a, taskName: Task.Plain}]", "Graph/A"},
		"no tasks":            {"injectableName: Graph.A\ntasks: []", "no tasks"},
		"label":               {head + "  - {label: a.b, taskName: Task.Plain}", `"a.b"`},
		"reserved label":      {head + "  - {label: defaults, taskName: Task.Plain}", "defaults"},
		"label twice":         {head + "  - {label: a, taskName: Task.Plain}\n  - {label: a, taskName: Task.Plain}", `two tasks have the label "a"`},
		"neither":             {head + "  - {label: a}", "neither taskName nor taskDefinition"},
		"unknown task":        {head + "  - {label: a, taskName: Task.Nowhere}", `"Task.Nowhere"`},
		"unknown job":         {head + "  - {label: a, taskDefinition: {injectableName: Task.X, runJob: Job.Nobody}}", "Job.Nobody"},
		"unknown wait":        {head + "  - {label: a, taskName: Task.Plain, waitOn: {b: succeeded}}", `waits for "b"`},
		"unknown state":       {head + "  - {label: a, taskName: Task.Plain, waitOn: {a: done}}", `"done"`},
		"no state":            {head + "  - {label: a, taskName: Task.Plain, waitOn: {a: []}}", "state"},
		"itself":              {head + "  - {label: a, taskName: Task.Plain, waitOn: {a: succeeded}}", "a waits for a"},
		"circle":              {head + "  - {label: a, taskName: Task.Plain, waitOn: {b: failed}}\n  - {label: b, taskName: Task.Plain, waitOn: {anyOf: {a: failed}}}", "a waits for b waits for a"},
		"never":               {head + "  - {label: a, taskName: Task.Plain}\n  - {label: b, taskName: Task.Plain, waitOn: {a: succeeded}}\n  - {label: c, taskName: Task.Plain, waitOn: {a: failed, b: succeeded}}", `"c" can never run`},
		"never of any":        {head + "  - {label: a, taskName: Task.Plain}\n  - {label: b, taskName: Task.Plain, waitOn: {a: succeeded}}\n  - {label: c, taskName: Task.Plain, waitOn: {a: failed, anyOf: {b: finished}}}", `"c" can never run`},
		"options of nobody":   {"injectableName: Graph.A\noptions: {b: {}}\ntasks: [{label: a, taskName: Task.Plain}]", `"b"`},
		"unknown option":      {"injectableName: Graph.A\noptions: {a: {imgae: x}}\ntasks: [{label: a, taskName: Task.Image}]", `"imgae"`},
		"unknown default":     {"injectableName: Graph.A\noptions: {defaults: {imgae: x}}\ntasks: [{label: a, taskName: Task.Image}]", `"imgae"`},
		"option template":     {"injectableName: Graph.A\noptions: {a: {image: '{{ options.nope }}'}}\ntasks: [{label: a, taskName: Task.Image}]", "options.nope"},
		"chassis template":    {"injectableName: Graph.A\noptions: {a: {image: '{{ chassis.soul }}'}}\ntasks: [{label: a, taskName: Task.Image}]", "chassis.soul"},
		"other template":      {"injectableName: Graph.A\noptions: {a: {image: '{{ env.HOME }}'}}\ntasks: [{label: a, taskName: Task.Image}]", "env.HOME"},
		"open template":       {"injectableName: Graph.A\noptions: {a: {image: '{{ options.boot'}}\ntasks: [{label: a, taskName: Task.Image}]", "{{ begins one"},
		"code in a template":  {"injectableName: Graph.A\noptions: {a: {image: '{{ exec(1) }}'}}\ntasks: [{label: a, taskName: Task.Image}]", "exec(1)"},
		"later result":        {"injectableName: Graph.A\noptions: {a: {image: '{{ context.b.x }}'}}\ntasks: [{label: a, taskName: Task.Image}, {label: b, taskName: Task.Plain, waitOn: {a: finished}}]", `no task "b" has ended`},
		"property":            {head + "  - {label: a, taskName: Task.OS}\n  - {label: b, taskName: Task.NeedsOS}", `property "os"`},
		"implements no task":  {head + "  - {label: a, taskDefinition: {injectableName: Task.X, implementsTask: Task.Nowhere}}", "Task.Nowhere"},
		"base and job":        {head + "  - {label: a, taskDefinition: {injectableName: Task.X, implementsTask: Task.Plain, runJob: Job.X}}", "both runJob and implementsTask"},
		"too many retries":    {head + "  - {label: a, taskName: Task.Plain, retries: 1000}", "retries"},
		"timeout of nonsense": {head + "  - {label: a, taskName: Task.Plain, timeout: soon}", "soon"},
		"not a number":        {"injectableName: Graph.A\noptions: {a: {image: .nan}}\ntasks: [{label: a, taskName: Task.Image}]", "number"},
	} {
		g, err := ParseGraph([]byte(c.text))
		if err == nil {
			err = lib.CheckGraph(g, jobs)
		}
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 600 {
			t.Errorf("%s: %v", name, err)
		}
	}
	loop := lib.With(nil, &Task{InjectableName: "Task.A", ImplementsTask: "Task.B"})
	if err := loop.CheckTask(Task{InjectableName: "Task.B", ImplementsTask: "Task.A"}, jobs); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "circle") {
		t.Errorf("tasks that implement each other: %v", err)
	}
	if err := lib.CheckGraph(graph(t, head+"  - {label: a, taskName: Task.OS}\n  - {label: b, taskName: Task.NeedsOS, waitOn: {a: succeeded}}"), jobs); err != nil {
		t.Errorf("property of a task before: %v", err)
	}
}

func TestResolve(t *testing.T) {
	lib := library(t)
	g := graph(t, `
injectableName: Graph.A
options:
  defaults: {boot: reboot, _taskTimeout: 1000}
  b: {image: of-b}
tasks:
  - {label: a, taskName: Task.Kexec}
  - {label: b, taskName: Task.Image, waitOn: {a: succeeded}, timeout: 1m}
  - {label: c, taskName: Task.Plain, waitOn: {b: succeeded}, optional: true}
  - {label: d, taskName: Task.Plain, waitOn: {c: succeeded, a: finished}}
`)
	got, err := lib.Resolve(g, map[string]map[string]any{"defaults": {"image": "{{ given }}"}, "a": {"boot": "auto", "_taskTimeout": -1.0}}, anyJob)
	if err != nil {
		t.Fatal(err)
	}
	a, b := got[0], got[1]
	if a.Options["boot"] != "reboot" || a.Given["boot"] != "auto" || a.Given["image"] != "{{ given }}" || a.Timeout != 0 || a.Job != "Job.Image" {
		t.Errorf("a: %+v", a)
	}
	if b.Options["image"] != "of-b" || b.Given["image"] != "{{ given }}" || b.Timeout != time.Second || len(b.Terminal) != 3 {
		t.Errorf("b: %+v", b)
	}
	filled, err := Fill(a.Options, a.Given, Scope{})
	if err != nil || filled["image"] != "{{ given }}" || filled["boot"] != "auto" {
		t.Errorf("what was given is data: %v, %v", filled, err)
	}
	// Without somebody for c it is left out, and d waits for what c would have.
	got, err = lib.Resolve(g, map[string]map[string]any{"a": {"image": "x"}}, func(n string) bool { return true })
	if err != nil || len(got) != 4 {
		t.Fatal(got, err)
	}
	g.Tasks[2].TaskName, g.Tasks[2].TaskDefinition = "", &Task{InjectableName: "Task.X", RunJob: "Job.Off"}
	got, err = lib.Resolve(g, map[string]map[string]any{"a": {"image": "x"}}, func(n string) bool { return n != "Job.Off" })
	if err != nil || len(got) != 3 || !reflect.DeepEqual(got[2].Wait.All, map[string][]string{"b": {"succeeded"}, "a": States}) {
		t.Errorf("left out: %+v, %v", got, err)
	}
	for name, c := range map[string]struct {
		options map[string]map[string]any
		jobs    func(string) bool
		want    string
	}{
		"missing":        {nil, anyJob, `option "image" is missing`},
		"null":           {map[string]map[string]any{"a": {"image": nil}}, anyJob, `option "image" is missing`},
		"unknown label":  {map[string]map[string]any{"z": {"image": "x"}}, anyJob, `"z"`},
		"unknown option": {map[string]map[string]any{"a": {"imgae": "x"}}, anyJob, `"imgae"`},
		"unknown shared": {map[string]map[string]any{"defaults": {"imgae": "x"}}, anyJob, `"imgae"`},
		"timeout":        {map[string]map[string]any{"a": {"_taskTimeout": "soon", "image": "x"}}, anyJob, "soon"},
		"no job":         {map[string]map[string]any{"a": {"image": "x"}}, func(n string) bool { return n != "Job.Image" }, "nothing here does Job.Image"},
	} {
		if _, err := lib.Resolve(g, c.options, c.jobs); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFill(t *testing.T) {
	scope := Scope{
		"chassis": map[string]any{"name": "web1", "macs": []any{"m0", "m1"}},
		"context": map[string]any{"first": map[string]any{"n": json.Number("12345678901234567890"), "list": []any{"x"}}},
	}
	for name, c := range map[string]struct {
		v    any
		want any
		err  string
	}{
		"plain":            {"x", "x", ""},
		"text":             {"a {{chassis.name}} b {{ chassis.macs.1 }}", "a web1 b m1", ""},
		"type is kept":     {"{{ context.first.list }}", []any{"x"}, ""},
		"number":           {"{{ context.first.n }}", json.Number("12345678901234567890"), ""},
		"number in a text": {"n={{ context.first.n }}", "n=12345678901234567890", ""},
		"inside":           {map[string]any{"a": []any{"{{ chassis.name }}"}}, map[string]any{"a": []any{"web1"}}, ""},
		"another option":   {"{{ options.other }}!", "web1!", ""},
		"given":            {"{{ options.given }}", "{{ chassis.name }}", ""},
		"missing":          {"{{ chassis.soul }}", nil, "chassis.soul"},
		"missing result":   {"{{ context.second.x }}", nil, "context.second.x"},
		"index":            {"{{ chassis.macs.9 }}", nil, "chassis.macs.9"},
		"below a text":     {"{{ chassis.name.x }}", nil, "chassis.name.x"},
		"null in a text":   {"a{{ options.unset }}", nil, "not set"},
		"circle":           {"{{ options.v }}", nil, "circle"},
		"too long":         {"{{ options.big }}", nil, "longer"},
	} {
		options := map[string]any{"v": c.v, "other": "{{ chassis.name }}", "unset": nil}
		// Ten levels of tenfold repetition.
		if name == "too long" {
			options["b0"] = strings.Repeat("x", 1000)
			for i := '1'; i <= '9'; i++ {
				options["b"+string(i)] = strings.Repeat("{{ options.b"+string(i-1)+" }}", 10)
			}
			options["big"] = "{{ options.b9 }}"
		}
		got, err := Fill(options, map[string]any{"given": "{{ chassis.name }}"}, scope)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, %v", name, got["v"], err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got["v"], c.want) {
			t.Errorf("%s: %#v, %v", name, got["v"], err)
		}
		if _, there := got["unset"]; there {
			t.Errorf("%s: a null option is there", name)
		}
	}
}

func FuzzParseGraph(f *testing.F) {
	f.Add("injectableName: Graph.A\ntasks: [{label: a, taskName: Task.Plain}, {label: b, taskName: Task.Plain, waitOn: {a: finished, anyOf: {a: failed}}}]")
	f.Add(`{"injectableName":"Graph.B","options":{"defaults":{"x":"{{ options.y }}"}},"tasks":[{"label":"a","taskDefinition":{"injectableName":"Task.X","runJob":"Job.X","options":{"x":1,"y":[{}]}},"timeout":"5s"}]}`)
	f.Add("? [a]\n: b")
	f.Add("a: &x [*x]")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ParseGraph([]byte(text))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		b, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxSize {
			return
		}
		again, err := ParseGraph(b)
		if err != nil || !reflect.DeepEqual(g, again) {
			t.Errorf("%+v read again as %+v, %v", g, again, err)
		}
		lib := NewLibrary([]Graph{g}, nil)
		if lib.CheckGraph(g, anyJob) == nil {
			if _, err := lib.Resolve(g, nil, anyJob); err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%v", err)
			}
		}
	})
}

func FuzzFill(f *testing.F) {
	f.Add("{{ options.b }}", "x {{ chassis.name }} {{ options.a }}")
	f.Add("{{ context.t.0.k }}", "{{")
	f.Fuzz(func(t *testing.T, a, b string) {
		scope := Scope{"chassis": map[string]any{"name": "{{ options.a }}"}, "context": map[string]any{"t": []any{map[string]any{"k": 1}}}}
		out, err := Fill(map[string]any{"a": a, "b": b}, map[string]any{"g": a}, scope)
		if err != nil {
			return
		}
		if out["g"] != a {
			t.Errorf("given %q became %q", a, out["g"])
		}
		if raw, err := json.Marshal(out); err != nil || len(raw) > 8*MaxFilled {
			t.Errorf("%d bytes, %v", len(raw), err)
		}
	})
}
