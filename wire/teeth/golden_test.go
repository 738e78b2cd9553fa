package teeth

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

// The files in testdata/golden are lines as the original agent put them on the
// wire, and our additions in the same form.
func TestGolden(t *testing.T) {
	const uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	command := func(id, method string, params any) Message {
		t.Helper()
		m, err := NewCommand(id, method, params)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	result := func(id string, v any) Message {
		t.Helper()
		m, err := NewResult(json.RawMessage(id), v)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	tests := map[string]Message{
		"handshake-original": command(uuid, MethodHandshake, Handshake{ID: "a:b:c:d", Version: LegacyVersion}),
		"ping":               command(uuid, MethodPing, nil),
		"log":                command(uuid, MethodLog, Log{Message: "hello", Time: 1795253238.63, Fields: map[string]any{"foo": "bar"}}),
		"log-unicode":        command("c2", MethodLog, Log{Message: "grüß \u2028 <b>&💥 \x7f \x01\t\"\\/"}),
		"status":             command(uuid, MethodStatus, StatusParams{}),
		"status-result":      result("7", Status{Mode: "STANDBY", Uptime: 12.25, Version: LegacyVersion}),
		"cache-images-original": command("c1", Legacy(MethodCacheImages),
			CacheImagesParams{TaskID: "t-1", ImageIDs: []string{"a", "b"}}),
		"result-null": result(`"c1"`, nil),
		"error":       NewError(json.RawMessage(`"c1"`), &MethodError{Msg: `missing parameter "task_id" in "standby.cache_images" command`}),
		"error-extra": NewError(json.RawMessage(`"c1"`), &MethodError{Msg: "busy",
			Extra: map[string]json.RawMessage{"retry": json.RawMessage(`{"after":[1,2.50]}`)}}),
		"fatal": NewFatal(FatalUnknownMethod),
		"task-status-running": command("c3", MethodTaskStatus, TaskStatus{TaskID: "t-1", State: Running,
			ETA: ptr(31.5), Percent: ptr(42.0), Step: "verify", Seq: 3}),
		"task-status-error":    command("c4", MethodTaskStatus, TaskStatus{TaskID: "t-1", State: Failed, Msg: "/dev/sda: verify failed at byte 512"}),
		"task-status-complete": command("c5", MethodTaskStatus, TaskStatus{TaskID: "t-1", State: Complete}),
		"disk-erase": command("c6", MethodDiskErase, DiskEraseParams{TaskID: "t-2",
			Disks: []Disk{{Serial: "S1", Size: 8 << 30}}, Verify: "full"}),
	}
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) != len(tests) {
		t.Fatalf("%d golden files, %d tests, %v", len(files), len(tests), err)
	}
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata/golden", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("encoded\n%swant\n%s", got, want)
			}
			parsed, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			again, err := parsed.Append(nil)
			if err != nil || !bytes.Equal(again, want) {
				t.Errorf("parsed and encoded again\n%s%v, want\n%s", again, err, want)
			}
		})
	}
}

// testdata/python.txt alternates between a JSON text and what Python's encoder
// made of it.
func TestOutputFormIsPythons(t *testing.T) {
	b, err := os.ReadFile("testdata/python.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) < 20 || len(lines)%2 != 0 {
		t.Fatalf("%d lines", len(lines))
	}
	for i := 0; i < len(lines); i += 2 {
		got, err := appendJSON(nil, json.RawMessage(lines[i]), 1)
		if err != nil || string(got) != lines[i+1] {
			t.Errorf("%s\n got %s (%v)\nwant %s", lines[i], got, err, lines[i+1])
		}
	}
}

func TestParamsRoundTrip(t *testing.T) {
	want := Log{Message: "m", Time: 1.5, Fields: map[string]any{"n": json.Number("12345678901234567890"), "s": "x"}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Log
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
	for in, want := range map[string]Log{
		`{}`:                                  {},
		`{"message":{"a":1}}`:                 {Message: `{"a":1}`},
		`{"message":"x","time":1e999}`:        {Message: "x"},
		`{"time":"noon","message":null}`:      {},
		`{"message":"x","Message":"y"}`:       {Message: "x", Fields: map[string]any{"Message": "y"}},
		`{"message":"x","time":2,"k":[null]}`: {Message: "x", Time: 2, Fields: map[string]any{"k": []any{nil}}},
	} {
		var got Log
		if err := json.Unmarshal([]byte(in), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, %v, want %#v", in, got, err, want)
		}
	}
}
