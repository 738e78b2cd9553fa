package sku

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const inventory = `{"system": {"manufacturer": "Dell Inc.", "product": "R750"}, "memory": {"total_bytes": 549755813888},
	"cpus": [{"model": "Xeon Gold 6338", "cores": 32, "features": ["avx2", "avx512f"]}, {"model": "Xeon Gold 6338", "cores": 32}],
	"disks": [{"name": "nvme0n1", "transport": "nvme", "size": 1000}, {"name": "sda", "transport": "sata", "size": 2000}],
	"bmc": {"present": true}, "tpm": null}`

func TestRules(t *testing.T) {
	for rules, want := range map[string]bool{
		`[{"path": "system.manufacturer", "contains": "Dell"}]`:                                               true,
		`[{"path": "system.manufacturer", "equals": "Dell"}]`:                                                 false,
		`[{"path": "system.manufacturer", "notContains": "HP"}]`:                                              true,
		`[{"path": "system.product", "in": ["R740", "R750"]}]`:                                                true,
		`[{"path": "system.product", "notIn": ["R740", "R750"]}]`:                                             false,
		`[{"path": "system.product", "regex": "^R7[0-9]+$"}]`:                                                 true,
		`[{"path": "system.product", "notRegex": "^R7"}]`:                                                     false,
		`[{"path": "memory.total_bytes", "greaterThan": 500000000000}]`:                                       true,
		`[{"path": "memory.total_bytes", "lessThan": 500000000000}]`:                                          false,
		`[{"path": "memory.total_bytes", "min": 549755813888, "max": 549755813888}]`:                          true,
		`[{"path": "memory.total_bytes", "equals": "549755813888"}]`:                                          true, // RackHD's rules have texts
		`[{"path": "cpus.0.cores", "equals": 32}, {"path": "cpus.1.cores", "equals": 32}]`:                    true,
		`[{"path": "cpus.2.cores", "equals": 32}]`:                                                            false,
		`[{"path": "cpus.*.features", "contains": "avx512f"}]`:                                                true,
		`[{"path": "disks.*.transport", "equals": "nvme"}]`:                                                   true,
		`[{"path": "disks.*.transport", "notIn": ["sata"]}]`:                                                  false, // one is
		`[{"path": "disks.*.size", "greaterThan": 1500, "lessThan": 2500}]`:                                   true,
		`[{"path": "bmc.present", "equals": true}]`:                                                           true,
		`[{"path": "tpm.version", "equals": "2.0"}]`:                                                          false,
		`[{"path": "tpm.version", "notContains": "2.0"}]`:                                                     true,
		`[{"path": "system.manufacturer", "contains": "Dell"}, {"path": "system.product", "equals": "R740"}]`: false,
	} {
		var list []Rule
		if err := json.Unmarshal([]byte(rules), &list); err != nil {
			t.Fatal(err)
		}
		compiled, err := Compile(list)
		if err != nil {
			t.Errorf("%s: %v", rules, err)
			continue
		}
		var v any
		if err := json.Unmarshal([]byte(inventory), &v); err != nil {
			t.Fatal(err)
		}
		if got := compiled.Match(v); got != want {
			t.Errorf("%s: %v", rules, got)
		}
	}
	for _, rules := range []string{`[]`, `[{"path": "a"}]`, `[{"path": "", "equals": 1}]`, `[{"path": "a..b", "equals": 1}]`,
		`[{"path": "a", "regex": "(("}]`, `[{"path": "a", "equals": {"b": 1}}]`, `[{"path": "*.*.*", "equals": 1}]`} {
		var list []Rule
		if err := json.Unmarshal([]byte(rules), &list); err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(list); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

// engine counts the graphs it is to run.
type engine struct {
	mu   sync.Mutex
	ran  []string
	busy error
}

func (e *engine) RunGraph(_ context.Context, r workflow.Request) (store.Graph, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy != nil {
		return store.Graph{}, e.busy
	}
	e.ran = append(e.ran, r.Chassis+" "+r.Graph)
	return store.Graph{ID: fmt.Sprintf("graph%d", len(e.ran))}, nil
}

func (e *engine) Library(ctx context.Context) (workflow.Library, error) {
	return (&workflow.Engine{}).Library(ctx)
}

func (e *engine) graphs() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.ran)
}

func TestAssignment(t *testing.T) {
	look, later = 10*time.Millisecond, 20*time.Millisecond
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := db.Connect(t.Context(), store.Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.SaveStatus(t.Context(), c.ID, teeth.Status{Inventory: json.RawMessage(inventory)}); err != nil {
		t.Fatal(err)
	}
	e := &engine{busy: fmt.Errorf("it has a graph to finish: %w", store.ErrConflict)}
	s := New(Config{Store: db, Engine: e, Log: slog.New(slog.DiscardHandler)})
	put := func(name, graph string, rules ...Rule) {
		t.Helper()
		b, err := json.Marshal(rules)
		if err == nil {
			_, err = db.PutSKU(t.Context(), store.SKU{Name: name, Rules: b, Graph: graph})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dell := Rule{Path: "system.manufacturer", Regex: "^Dell"}
	put("dell", "Graph.A", dell)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	has := func(name, step string) func() bool {
		return func() bool {
			a, err := db.SKUOf(t.Context(), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			return a.Name == name && a.Step == step
		}
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for start := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				a, _ := db.SKUOf(t.Context(), c.ID)
				t.Fatalf("waited in vain: %s; %+v", what, a)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	if a, err := db.SKUOf(t.Context(), c.ID); err != nil || a.SKU != "" {
		t.Errorf("assigned to a chassis that is not approved: %+v, %v", a, err)
	}
	if err := db.Approve(t.Context(), c.ID, "jane"); err != nil {
		t.Fatal(err)
	}
	wait("assigned, graph waits for the busy chassis", has("dell", store.SKUGraphWaiting))
	e.mu.Lock()
	e.busy = nil
	e.mu.Unlock()
	wait("graph started", has("dell", store.SKUGraphStarted))
	// The same inventory again starts nothing again.
	if err := db.SaveStatus(t.Context(), c.ID, teeth.Status{Inventory: json.RawMessage(inventory)}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if n := e.graphs(); n != 1 {
		t.Errorf("%d graphs run", n)
	}
	// A SKU with more rules is more particular.
	put("dell-big", "", dell, Rule{Path: "memory.total_bytes", GreaterThan: new(float64)})
	wait("the more particular SKU", has("dell-big", ""))
	if err := db.RemoveSKU(t.Context(), func() string { k, _ := db.SKU(t.Context(), "dell-big"); return k.ID }()); err != nil {
		t.Fatal(err)
	}
	wait("the other SKU again, and its graph", has("dell", store.SKUGraphStarted))
	notices, err := db.Notices(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, n := range notices {
		if n.Kind == store.NoticeSKU && strings.Contains(string(n.Data), `"sku":"`) && n.Chassis == c.ID {
			told++
		}
	}
	if told != 3 {
		t.Errorf("%d notices", told)
	}
}

func FuzzRulesOverInventory(f *testing.F) {
	f.Add(`[{"path":"disks.*.size","greaterThan":1}]`, inventory)
	f.Add(`[{"path":"a.*.b","notContains":"x"}]`, `{"a":[{"b":[1,{"c":null}]},7,"x"]}`)
	f.Fuzz(func(t *testing.T, rules, inventory string) {
		var list []Rule
		var v any
		if json.Unmarshal([]byte(rules), &list) != nil || json.Unmarshal([]byte(inventory), &v) != nil {
			return
		}
		compiled, err := Compile(list)
		if err != nil {
			return
		}
		if first := compiled.Match(v); compiled.Match(v) != first {
			t.Error("two answers to one question")
		}
	})
}
