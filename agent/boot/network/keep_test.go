package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepLease runs leases of an hour (T1 30 min, T2 52.5 min) in fake time.
func TestKeepLease(t *testing.T) {
	silence := errNoAnswer
	lease := func() *Lease {
		return &Lease{Obtained: time.Now(), Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second, Expire: time.Hour}
	}
	tests := []struct {
		name    string
		answers []error  // one for each try, nil is an ACK; then the context ends
		tries   []string // when, and with what
		err     error
		end     time.Duration
	}{
		{"renewed twice", []error{nil, nil}, []string{"30m0s renew", "1h0m0s renew"}, context.Canceled, time.Hour},
		{"answer at the second try", []error{silence, nil}, []string{"30m0s renew", "41m15s renew"}, context.Canceled, 41*time.Minute + 15*time.Second},
		{"rebound", []error{silence, silence, silence, silence, silence, silence, nil},
			// Half of what is left before T2, but a minute at least.
			[]string{"30m0s renew", "41m15s renew", "46m53s renew", "49m41s renew", "51m6s renew", "52m6s renew", "52m30s rebind"}, context.Canceled, 52*time.Minute + 30*time.Second},
		{"expired", slices.Repeat([]error{silence}, 20),
			[]string{"30m0s renew", "41m15s renew", "46m53s renew", "49m41s renew", "51m6s renew", "52m6s renew", "52m30s rebind", "56m15s rebind", "58m8s rebind", "59m8s rebind"}, errExpired, time.Hour},
		{"taken back", []error{errNak}, []string{"30m0s renew"}, errNak, 30 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				var tries []string
				err := keepLease(ctx, lease(), func(_ context.Context, _ *Lease, rebind bool) (*Lease, error) {
					what := "renew"
					if rebind {
						what = "rebind"
					}
					tries = append(tries, fmt.Sprintf("%s %s", time.Since(began).Round(time.Second), what))
					answer := tt.answers[len(tries)-1]
					if len(tries) == len(tt.answers) && answer == nil {
						cancel()
					}
					if answer != nil {
						return nil, fmt.Errorf("NIC eth0: %w", answer)
					}
					return lease(), nil
				})
				if !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if !slices.Equal(tries, tt.tries) {
					t.Errorf("tries\n%q, want\n%q", tries, tt.tries)
				}
				if got := time.Since(began); got != tt.end {
					t.Errorf("ended after %s, want %s", got, tt.end)
				}
			})
		})
	}
}

// A try must not run on into the next state.
func TestRenewDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Lease{Obtained: time.Now(), Renew: 30 * time.Minute, Rebind: 50 * time.Minute, Expire: time.Hour}
		began := time.Now()
		var ends []time.Duration
		err := keepLease(t.Context(), l, func(ctx context.Context, _ *Lease, _ bool) (*Lease, error) {
			<-ctx.Done()
			ends = append(ends, time.Since(began))
			return nil, ctx.Err()
		})
		if !errors.Is(err, errExpired) || !slices.Equal(ends, []time.Duration{50 * time.Minute, time.Hour}) {
			t.Errorf("%v, tries ended after %s", err, ends)
		}
	})
}

func TestKeepForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*24*time.Hour)
		defer cancel()
		err := keepLease(ctx, &Lease{Obtained: time.Now()}, func(context.Context, *Lease, bool) (*Lease, error) {
			t.Error("a lease without end is renewed")
			return nil, errNak
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
