package store

import (
	"testing"
	"time"
)

func TestLead(t *testing.T) {
	s := newStore(t)
	if ok, err := s.Lead(t.Context(), "x", time.Hour); !ok || err != nil {
		t.Fatalf("first: %v, %v", ok, err)
	}
	if ok, err := s.Lead(t.Context(), "x", time.Millisecond); !ok || err != nil {
		t.Fatalf("again: %v, %v", ok, err)
	}
	time.Sleep(5 * time.Millisecond)
	mine := s.server
	s.server = "another"
	if ok, err := s.Lead(t.Context(), "x", time.Hour); !ok || err != nil {
		t.Fatalf("another server, after the time was over: %v, %v", ok, err)
	}
	s.server = mine
	if ok, err := s.Lead(t.Context(), "x", time.Hour); ok || err != nil {
		t.Fatalf("while another leads: %v, %v", ok, err)
	}
}

func TestNotices(t *testing.T) {
	s := newStore(t)
	for _, subject := range []string{"a", "b", "c"} {
		if err := s.AddNotice(t.Context(), NoticeSKU, "", subject, map[string]string{"sku": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Notices(t.Context(), 0, 2)
	if err != nil || len(list) != 2 || list[0].Subject != "a" || string(list[1].Data) != `{"sku":"x"}` {
		t.Fatalf("%v, %+v", err, list)
	}
	if _, err := s.DropNotices(t.Context(), list[1].Number); err != nil {
		t.Fatal(err)
	}
	if list, err = s.Notices(t.Context(), 0, 10); err != nil || len(list) != 1 || list[0].Subject != "c" {
		t.Fatalf("%v, %+v", err, list)
	}
}
