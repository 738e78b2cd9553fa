package scale

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// inventory is as large as that of a server with a dozen disks.
var inventory = json.RawMessage(`{"system":{"product":"scale"},"disks":[` + strings.Repeat(
	`{"name":"nvme0n1","path":"/dev/nvme0n1","size":3840755982336,"serial":"S64FNE0R900000","wwn":"eui.36344630529000000025384500000001","model":"SAMSUNG MZQL23T8HCLS-00A07","transport":"nvme","firmware":"GDC5902Q"},`, 20) +
	`{"name":"sda","path":"/dev/sda","size":480103981056,"serial":"SDA"}]}`)

// fleet is many agents in this process.
type fleet struct {
	t         testing.TB
	s         *server
	plain     bool
	connected atomic.Int64 // sessions whose handshake was accepted
	settled   atomic.Int64 // that have been asked for their status, too
	certified atomic.Int64 // agents that hold a certificate
	full      atomic.Int64 // TLS handshakes
	resumed   atomic.Int64
	failures  atomic.Int64 // sessions that were not accepted
	last      atomic.Value // why, in words
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

// agent is one of them, as lean as can be. It holds on to a session as the real
// one does, with the same waits.
type agent struct {
	f     *fleet
	hello teeth.Handshake
	from  net.IP
	conf  *tls.Config
	key   *ecdsa.PrivateKey
	own   bool // conf has a certificate
}

func (f *fleet) agent(number int) *agent {
	mac := fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
	a := &agent{f: f, from: net.IPv4(127, 0, 1, 1+byte(number%100)), hello: teeth.Handshake{
		ID: mac, MACs: []string{mac}, Version: "1.0", UUID: fmt.Sprintf("4c4c4544-0043-3010-8052-%012x", number+1),
		Serial: fmt.Sprintf("SCALE%06d", number), BootID: teeth.NewID(), Token: f.s.token, Endpoint: f.s.Agents,
	}}
	if !f.plain {
		a.conf = a.config()
	}
	return a
}

func (a *agent) config() *tls.Config {
	conf, err := pki.ClientConfig(a.f.s.info.CASHA256)
	if err != nil {
		a.f.t.Fatal(err)
	}
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	return conf
}

// launch starts n agents.
func launch(t testing.TB, s *server, n int, plain bool) *fleet {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &fleet{t: t, s: s, plain: plain, stop: cancel}
	t.Cleanup(f.land)
	for i := range n {
		a := f.agent(i)
		f.wg.Go(func() { a.live(ctx) })
	}
	return f
}

// land ends all agents.
func (f *fleet) land() {
	f.stop()
	f.wg.Wait()
}

// wait waits until a counter has reached n and returns how long that took.
func (f *fleet) wait(what string, counter *atomic.Int64, n int, limit time.Duration) time.Duration {
	f.t.Helper()
	began := time.Now()
	for counter.Load() < int64(n) {
		if time.Since(began) > limit {
			f.t.Fatalf("%d of %d agents %s within %v; %d sessions failed, the last one: %v", counter.Load(), n, what, limit, f.failures.Load(), f.last.Load())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func (a *agent) live(ctx context.Context) {
	wait := 2 * time.Second
	for {
		established, err := a.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if established {
			wait = 2 * time.Second
		} else {
			a.f.failures.Add(1)
			a.f.last.Store(err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(mathrand.N(wait)):
		}
		if !established {
			wait = min(2*wait, 30*time.Second)
		}
	}
}

// dial connects, introduces itself and waits for the answer.
func (a *agent) dial(ctx context.Context) (net.Conn, *teeth.Reader, error) {
	address := a.f.s.Agents
	if a.f.plain {
		address = a.f.s.Plain
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.from}}
	nc, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, nil, err
	}
	if !a.f.plain {
		conf, session := a.conf, (*tls.ClientSessionState)(nil)
		if conf.ClientSessionCache != nil {
			if session, _ = conf.ClientSessionCache.Get(conf.ServerName); session != nil { // as the real agent
				conf = conf.Clone()
				conf.CurvePreferences = []tls.CurveID{tls.CurveP256}
			}
		}
		tc := tls.Client(nc, conf)
		if err := tc.HandshakeContext(ctx); err != nil {
			if session != nil {
				conf.ClientSessionCache.Put(conf.ServerName, session)
			}
			nc.Close()
			return nil, nil, err
		}
		if tc.ConnectionState().DidResume {
			a.f.resumed.Add(1)
		} else {
			a.f.full.Add(1)
		}
		nc = tc
	}
	r := teeth.NewReader(nc)
	h := a.hello
	if a.own {
		h.Token = ""
	}
	m, err := teeth.NewCommand("hello", teeth.MethodHandshake, h)
	if err == nil {
		err = teeth.NewWriter(nc).WriteMessage(m)
	}
	if err == nil {
		nc.SetReadDeadline(time.Now().Add(15 * time.Second))
		m, err = next(r)
	}
	if err == nil && m.Kind != teeth.KindResult {
		err = fmt.Errorf("handshake: %+v %s", m.Err, m.Fatal)
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, r, nil
}

func next(r *teeth.Reader) (teeth.Message, error) {
	line, err := r.ReadLine()
	if err != nil {
		return teeth.Message{}, err
	}
	return teeth.Parse(line)
}

func (a *agent) session(ctx context.Context) (established bool, err error) {
	nc, r, err := a.dial(ctx)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	a.f.connected.Add(1)
	defer a.f.connected.Add(-1)
	settled := false
	defer func() {
		if settled {
			a.f.settled.Add(-1)
		}
	}()
	var writing sync.Mutex
	send := func(m teeth.Message, err error) error {
		if err != nil {
			return err
		}
		writing.Lock()
		defer writing.Unlock()
		return teeth.NewWriter(nc).WriteMessage(m)
	}
	var pings *time.Timer // takes no goroutine of its own
	pings = time.AfterFunc(time.Hour, func() {
		if send(teeth.NewCommand("ping", teeth.MethodPing, struct{}{})) == nil {
			pings.Reset(20 * time.Second)
		}
	})
	pings.Reset(mathrand.N(20 * time.Second))
	defer pings.Stop()
	for {
		nc.SetReadDeadline(time.Now().Add(time.Minute))
		m, err := next(r)
		if err != nil {
			return true, err
		}
		switch {
		case m.Kind == teeth.KindCommand && m.Method == teeth.MethodStatus:
			st := teeth.Status{Mode: "STANDBY", Version: "1.0", BootID: a.hello.BootID}
			var p teeth.StatusParams
			if json.Unmarshal(m.Params, &p) == nil && p.Inventory {
				st.Inventory = inventory
			}
			err = send(teeth.NewResult(m.ID, st))
			if !settled {
				settled = true
				a.f.settled.Add(1)
			}
			if err == nil && !a.own && !a.f.plain {
				err = a.request(send)
			}
		case m.Kind == teeth.KindCommand:
			err = send(teeth.NewResult(m.ID, m.Params))
		case m.Kind == teeth.KindResult && string(m.ID) == `"certificate"`:
			err = a.certificate(m)
		case m.Kind == teeth.KindFatal, m.Kind == teeth.KindError:
			err = fmt.Errorf("%+v %s", m.Err, m.Fatal)
		}
		if err != nil {
			return true, err
		}
	}
}

func (a *agent) request(send func(teeth.Message, error) error) (err error) {
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, a.key)
	if err != nil {
		return err
	}
	return send(teeth.NewCommand("certificate", teeth.MethodCertificate, teeth.CertificateParams{CSR: csr}))
}

func (a *agent) certificate(m teeth.Message) error {
	var r teeth.CertificateResult
	if err := json.Unmarshal(m.Result, &r); err != nil {
		return err
	}
	if len(r.Certificate) == 0 {
		return errors.New("no certificate")
	}
	a.conf = a.config()
	a.conf.Certificates = []tls.Certificate{{Certificate: [][]byte{r.Certificate}, PrivateKey: a.key}}
	a.own = true
	a.f.certified.Add(1)
	return nil
}
