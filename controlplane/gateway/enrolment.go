package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	maxToken  = 256 // bytes
	maxProbe  = 3 * time.Second
	certPause = 5 * time.Second        // between two certificates of one session
	lookPause = 200 * time.Millisecond // at least, between two looks at what was decided
)

// prove says by what a session may introduce itself. On a plain listener nothing
// is asked for. Over TLS it is the certificate, if there is one, and otherwise
// the token: that of the estate, or one that the store is to redeem.
func (g *Gateway) prove(in *store.Session, token string, state tls.ConnectionState) error {
	switch {
	case !in.Secure:
		return nil
	case len(state.PeerCertificates) > 0 && g.c.Authority != nil:
		verify := g.c.Authority.VerifyClient
		if state.DidResume {
			verify = g.c.Authority.VerifyResumed
		}
		chassis, boot, err := verify(state.PeerCertificates[0])
		if err != nil {
			return err
		}
		if boot != in.Handshake.BootID {
			return fmt.Errorf("client certificate of chassis %s is from another boot", chassis)
		}
		in.Certificate = chassis
	case token == "" || len(token) > maxToken:
		return errors.New("enrolment token refused: boot over the network, or give the one in the control plane's enrol.token as teeth.token")
	case !pki.Equal(token, g.c.Token):
		in.BootToken = token
	}
	return nil
}

// answers reports whether the chassis has a session that is alive.
func (g *Gateway) answers(ctx context.Context, chassis string) bool {
	g.mu.Lock()
	s := g.sessions[chassis]
	g.mu.Unlock()
	if s == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, maxProbe)
	defer cancel()
	_, err := s.Call(ctx, teeth.MethodPing, struct{}{})
	var refusal *teeth.MethodError
	if err != nil && !errors.As(err, &refusal) {
		return false
	}
	s.log.Warn("another machine claims to be this chassis, which is connected and answers")
	return true
}

// certificate answers the agent's request for a client certificate.
func (s *Session) certificate(ctx context.Context, m teeth.Message) (any, error) {
	var p teeth.CertificateParams
	if err := teeth.DecodeParams(m.Method, m.Params, &p, "csr"); err != nil {
		return nil, err
	}
	refuse := func(why string) (any, error) { return nil, &teeth.MethodError{Msg: why} }
	switch {
	case s.g.c.Authority == nil || !s.secure:
		return refuse("no certificates are given on this connection")
	case !s.approved.Load():
		return refuse("not approved yet")
	case s.bootID == "":
		return refuse("the handshake had no boot_id, which a certificate is bound to")
	case time.Since(s.certified) < certPause:
		return refuse("too soon after the last one")
	}
	s.certified = time.Now()
	der, renew, err := s.g.c.Authority.IssueClient(p.CSR, s.chassis, s.bootID)
	if err != nil {
		return refuse(err.Error())
	}
	switch err := s.g.c.Store.CertificateIssued(ctx, s.chassis, s.bootID); {
	case errors.Is(err, store.ErrConflict):
		return refuse("not approved yet")
	case err != nil:
		return nil, err
	}
	s.log.Info("certificate issued")
	return teeth.CertificateResult{Certificate: der, Renew: renew.Seconds()}, nil
}

// Run carries out what operators and rules decide of chassis, on this server or
// another one, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	after, changed := g.c.Store.Revision()
	atOnce := make(chan struct{})
	close(atOnce)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		_, changed = g.c.Store.Revision()
		var more bool
		if after, more = g.carryOut(ctx, after); more {
			changed = atOnce // look again without waiting for a change
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookPause):
		}
	}
}

// carryOut carries out the decisions that are newer than a revision. It returns how
// far it has come, and whether more are left: one page holds so many, and the store
// may fail.
func (g *Gateway) carryOut(ctx context.Context, after int64) (upTo int64, more bool) {
	list, err := g.c.Store.Decisions(ctx, after, store.MaxPage)
	for _, d := range list {
		if err = g.decided(ctx, d); err != nil {
			break
		}
		after = d.Rev
	}
	if err != nil && ctx.Err() == nil {
		g.c.Log.Error("cannot carry out what was decided of chassis", "error", err)
	}
	return after, err != nil || len(list) == store.MaxPage
}

// decided carries out a decision. It may be an old one, which another has overtaken
// since, so what the chassis may do is asked of the store.
func (g *Gateway) decided(ctx context.Context, d store.Decision) error {
	g.decisions.Add(1) // before the look at sessions
	g.mu.Lock()
	s := g.sessions[d.Chassis]
	ready := s != nil && s.ready
	g.mu.Unlock()
	if s == nil {
		return nil
	}
	switch d.Verdict {
	case store.Approved, store.Withdrawn:
		approved, err := g.c.Store.MayConnect(ctx, d.Chassis)
		switch {
		case errors.Is(err, store.ErrRefused):
			s.end(err)
		case err != nil:
			return err
		}
		s.approved.Store(approved)
		if !approved {
			break
		}
		s.log.Info("chassis approved", "by", d.By)
		if ready {
			g.c.Handler.Wake(d.Chassis)
		}
	case store.Denied, store.Forgotten:
		s.end(fmt.Errorf("the chassis was %s by %s", d.Verdict, d.By))
	default:
		if keep, ok := d.Keep(); ok && keep != s.id {
			s.end(errors.New("the chassis has connected to another server"))
		}
	}
	return nil
}
