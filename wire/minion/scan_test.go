package minion

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
)

func TestScanHostile(t *testing.T) {
	head := "93a14cd924" + hex.EncodeToString([]byte("2b77a940-0002-25c1-7d04-79f659ccb685"))
	for name, raw := range map[string]string{
		"nothing":               "",
		"an integer":            "2a",
		"array of two":          "92a14ca0",
		"array of four":         "94a14ca0a0a0",
		"array head cut":        "dc00",
		"array32 of 4 G":        "ddffffffff",
		"verb is a list":        "9391a14c",
		"verb of two letters":   "93a24c4c" + head[6:] + "90",
		"verb is zero":          "93a100" + head[6:] + "90",
		"id too short":          "93a14ca161" + "90",
		"id is nil":             "93a14cc0" + "90",
		"data missing":          head,
		"data is a text":        head + "a161",
		"data is a map":         head + "80",
		"element missing":       head + "92a161",
		"element is nil":        head + "91c0",
		"element is an integer": head + "9101",
		"element is binary":     head + "91c40161",
		"list in a list":        head + "91919161",
		"number in a list":      head + "91912a",
		"text longer than rest": head + "91a5616263",
		"text32 of 4 G":         head + "91dbffffffff61",
		"text16 head cut":       head + "91da00",
		"text8 head cut":        head + "91d9",
		"array16 of 64 k":       head + "dcffff90",
		"list32 of 4 G":         head + "91ddffffffff",
		"something follows":     head + "9000",
	} {
		b, err := hex.DecodeString(raw)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if err := Scan(make([]byte, MaxAccepted+1), new(View)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	// Longer heads than needed are MessagePack all the same.
	long, _ := hex.DecodeString("dd00000003" + "da00014c" + "db00000024" + head[10:] + "dc0002" + "d90161" + "dc0001" + "db0000000162")
	f, err := Parse(long)
	if want := (Frame{Verb: Log, ID: mustID(t), Data: []Item{Text("a"), List("b")}}); err != nil || !reflect.DeepEqual(f, want) {
		t.Errorf("%v, %v", f, err)
	}
}

func mustID(t testing.TB) ID {
	t.Helper()
	id, err := ParseID("2b77a940-0002-25c1-7d04-79f659ccb685")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestScanBounded: what a payload makes a server allocate is bounded by its size.
func TestScanBounded(t *testing.T) {
	var v View
	f := Frame{Verb: Log, ID: mustID(t)}
	for range 300 {
		f.Data = append(f.Data, List(make([]string, 200)...))
	}
	b, err := f.AppendLarge(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Scan(b[2:], &v); err != nil || len(v.Data) != 300 || len(v.Data[0].List) != 200 || len(v.Data[299].List) != 200 {
		t.Fatal(len(v.Data), err)
	}
	if !reflect.DeepEqual(v.Frame(), f) {
		t.Error("another frame")
	}
	small, _ := LogLine(mustID(t), "g", "s", "x", "y").Append(nil)
	if err := Scan(small[2:], &v); err != nil || cap(v.Data) > keepItems || cap(v.lists) > keepItems {
		t.Errorf("room for %d and %d kept (%v)", cap(v.Data), cap(v.lists), err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if Scan(small[2:], &v) != nil {
			t.Fatal("not read")
		}
	}); n != 0 {
		t.Errorf("%v allocations for a log frame", n)
	}
}

func FuzzScan(f *testing.F) {
	for _, direction := range []string{"A->S", "S->A"} {
		r := NewReader(bytes.NewReader(golden(f, direction)))
		for {
			p, err := r.Next()
			if err != nil {
				break
			}
			f.Add(bytes.Clone(p))
		}
	}
	f.Add([]byte("\xdd\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := bytes.Clone(payload)
		var v View
		err := Scan(payload, &v)
		if !bytes.Equal(payload, before) {
			t.Fatal("the payload was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		first := v.Frame()
		b, err := first.AppendLarge(nil)
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		if len(b)-prefix > len(payload)+1 { // an id in the old form grows by one
			t.Fatalf("%d bytes from %d", len(b)-prefix, len(payload))
		}
		second, err := Parse(b[prefix:])
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("%v, %v, %v", first, second, err)
		}
	})
}
