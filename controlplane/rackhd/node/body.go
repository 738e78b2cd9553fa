package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

const (
	maxNotification = 64 << 10 // bytes
	smallReport     = 1 << 20  // bytes; larger ones take a place
	maxLarge        = 4        // reports that are in memory at a time
	placeWait       = 20 * time.Second
)

// How long a body may take. They are variables for tests.
var (
	smallTime = time.Minute
	largeTime = 5 * time.Minute
)

// Errors of a body. A node posts again after either.
var (
	errBody = errors.New("the body did not arrive")
	errBusy = errors.New("too much at a time")
)

// read returns the body of a report. Large ones take turns, so that nodes which
// report megabytes at once do not fill the memory; done ends the turn.
func (s *server) read(w http.ResponseWriter, r *http.Request) (body []byte, done func(), err error) {
	done = func() {}
	r.Body = http.MaxBytesReader(w, r.Body, wire.MaxNodePost)
	deadline(w, smallTime)
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r.Body, smallReport))
	if err == nil && n == smallReport {
		turn := time.NewTimer(placeWait)
		defer turn.Stop()
		select {
		case s.large <- struct{}{}:
			done = func() { <-s.large }
		case <-turn.C:
			return nil, done, fmt.Errorf("%w: %d large reports are being read", errBusy, maxLarge)
		case <-r.Context().Done():
			return nil, done, r.Context().Err()
		}
		deadline(w, largeTime)
		_, err = io.Copy(&b, r.Body)
	}
	if err != nil {
		done()
		return nil, nil, bodyError(err)
	}
	deadline(w, 0)
	return b.Bytes(), done, nil
}

// readAll returns a body of at most limit bytes.
func readAll(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	deadline(w, smallTime)
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, bodyError(err)
	}
	deadline(w, 0)
	return b, nil
}

func bodyError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return err
	}
	return fmt.Errorf("%w: %w", errBody, err)
}

// deadline bounds the time for the body; 0: no more.
func deadline(w http.ResponseWriter, in time.Duration) {
	var at time.Time
	if in > 0 {
		at = time.Now().Add(in)
	}
	// What cannot have a deadline is no connection, but a test.
	http.NewResponseController(w).SetReadDeadline(at)
}
