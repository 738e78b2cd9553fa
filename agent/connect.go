package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/agent/session"
)

const (
	lookAgain = 5 * time.Second  // for servers that a renewed lease may bring
	sayAgain  = 30 * time.Second // a whole number of lookAgain
)

var errNoServer = errors.New("no control plane is known: give teeth.server=HOST:PORT on the kernel command line, or DHCP option 43 sub-option 1")

// waitForSession returns the session once it can be had. Until then it says on
// the consoles, again and again, what is missing: whoever comes to look must
// find it there, which a machine that reboots in a loop does not grant.
func (a *Agent) waitForSession(ctx context.Context, servers func() []string) (*session.Session, error) {
	for waited := time.Duration(0); ; waited += lookAgain {
		s, err := a.newSession(servers())
		if err == nil {
			return s, nil
		}
		if waited%sayAgain == 0 {
			a.log.Error(err.Error() + "; until then this chassis waits (a reset or ctrl-alt-del reboots it)")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}

func (a *Agent) newSession(servers []string) (*session.Session, error) {
	opt := a.machine.Options
	pin, _ := a.machine.Trust()
	at := strings.Join(servers, ",")
	switch {
	case len(servers) == 0:
		return nil, errNoServer
	case pin == "" && !opt.Insecure:
		return nil, fmt.Errorf("the control plane %s cannot be told from an impostor: give teeth.ca_sha256=HEX, the 64 digits that teeth serve prints, on the kernel command line, or DHCP option 43 sub-option 2, or teeth.insecure=1 for a test without TLS", at)
	case opt.CASHA256 != "" && opt.Insecure:
		return nil, errors.New("teeth.ca_sha256 and teeth.insecure exclude each other: drop one of the two from the kernel command line")
	}
	s, err := session.New(session.Config{
		Endpoints: servers,
		CASHA256:  pin,
		Insecure:  opt.Insecure,
		Handshake: a.handshake,
		Handler:   a,
		Delivered: a.tasks.Acknowledge,
		Welcomed:  a.welcomed,
		Log:       a.machine.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", at, err)
	}
	return s, nil
}
