package backbone

import (
	"context"
	"sync"
	"testing"
	"time"
)

// TestQueueCoalesces adds hosts again and again while workers look at them: none is
// looked at by two at once, and each once more after the last time it was added.
func TestQueueCoalesces(t *testing.T) {
	q := newQueue()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	added, seen, busy, looks := map[string]int{}, map[string]int{}, map[string]bool{}, 0
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				id, ok := q.next(ctx)
				if !ok {
					return
				}
				mu.Lock()
				if busy[id] {
					t.Errorf("%s is looked at twice at once", id)
				}
				busy[id], seen[id] = true, added[id]
				looks++
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				delete(busy, id)
				mu.Unlock()
				q.done(id)
			}
		})
	}
	ids := []string{"a", "b", "c", "d", "e"}
	for i := range 2000 {
		id := ids[i%len(ids)]
		mu.Lock()
		added[id]++
		mu.Unlock()
		q.add(id)
		if i%7 == 0 {
			q.addAfter(id, time.Microsecond)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		mu.Lock()
		behind := 0
		for _, id := range ids {
			if seen[id] != added[id] {
				behind++
			}
		}
		mu.Unlock()
		if behind == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("added %v, seen %v", added, seen)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	workers.Wait()
	if looks >= 2000 {
		t.Errorf("%d looks: nothing was coalesced", looks)
	}
}
