package network

import (
	"context"
	"errors"
	"time"
)

// minRetry is the least time between two renewals that got no answer (RFC
// 2131, section 4.4.5).
const minRetry = time.Minute

var errExpired = errors.New("the DHCP lease expired")

// keepLease renews l when it is time, and goes on with the lease that renew
// returns, until ctx is done, the lease has run out or the server took it back.
func keepLease(ctx context.Context, l *Lease, renew func(ctx context.Context, l *Lease, rebind bool) (*Lease, error)) error {
	for {
		if l.Expire == 0 { // never ends
			<-ctx.Done()
			return ctx.Err()
		}
		renewed, err := renewOnce(ctx, l, renew)
		if err != nil {
			return err
		}
		l = renewed
	}
}

// renewOnce sees one lease through to its renewal or its end.
func renewOnce(ctx context.Context, l *Lease, renew func(context.Context, *Lease, bool) (*Lease, error)) (*Lease, error) {
	t2, end := l.Obtained.Add(l.Rebind), l.Obtained.Add(l.Expire)
	next := l.Obtained.Add(l.Renew)
	for {
		wake := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			wake.Stop()
			return nil, ctx.Err()
		case <-wake.C:
		}
		now := time.Now()
		if !now.Before(end) {
			return nil, errExpired
		}
		rebind, until := false, t2
		if !now.Before(t2) {
			rebind, until = true, end
		}
		try, cancel := context.WithDeadline(ctx, until)
		renewed, err := renew(try, l, rebind)
		cancel()
		switch {
		case err == nil:
			return renewed, nil
		case errors.Is(err, errNak):
			return nil, err
		}
		next = retryAt(time.Now(), until)
	}
}

// retryAt is half of the time that is left until the next state, but neither
// sooner than minRetry nor later than that state begins.
func retryAt(now, until time.Time) time.Time {
	next := now.Add(max(until.Sub(now)/2, minRetry))
	if next.After(until) {
		return until
	}
	return next
}
