package ipmi

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
)

// liar passes datagrams between us and a BMC, and before each of its answers
// sends forged ones.
func liar(t *testing.T, bmc string, forge func(answer []byte) [][]byte) string {
	t.Helper()
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.Dial("udp", bmc)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var peer net.Addr
	var parts sync.WaitGroup
	parts.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			peer = from
			mu.Unlock()
			back.Write(b[:n])
		}
	})
	parts.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, err := back.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			to := peer
			mu.Unlock()
			for _, f := range forge(bytes.Clone(b[:n])) {
				front.WriteTo(f, to)
			}
			front.WriteTo(b[:n], to)
		}
	})
	t.Cleanup(func() {
		front.Close()
		back.Close()
		parts.Wait()
	})
	return front.LocalAddr().String()
}

// Everybody who can send us a datagram with the BMC's address can send these.
func TestForgedAnswers(t *testing.T) {
	sim := bmctest.StartSim(t)
	sim.SetPower(t, true)
	random := rand.New(rand.NewPCG(1, 2))
	var before [][]byte
	target := sim.Target
	target.Address = liar(t, sim.Target.Address, func(answer []byte) [][]byte {
		forged := [][]byte{
			{}, {6}, answer[:len(answer)-1], answer[:len(answer)/2],
			unhex(t, "0600ff0706c0a3a2a1a00100000000000000"), // of the session, encrypted, and empty
			unhex(t, "0600ff0706c0a3a2a1a00100000004000000000000"),
			unhex(t, "0600ff070680a3a2a1a0010000001000000102030405060708090a0b0c0d0e0f10"),
		}
		if len(answer) > 20 {
			tampered := bytes.Clone(answer)
			tampered[18+random.IntN(len(tampered)-18)] ^= 1 << random.IntN(8)
			if answer[4] == formatRMCP20 && answer[5]&0x80 != 0 { // before, nothing is authenticated
				forged = append(forged, tampered)
				forged = append(forged, before...)
				before = append(before, bytes.Clone(answer))
			}
		}
		junk := make([]byte, 64)
		for i := range junk {
			junk[i] = byte(random.Uint32())
		}
		copy(junk, "\x06\x00\xff\x07\x06\xc0\xa3\xa2\xa1\xa0")
		return append(forged, junk)
	})
	c := open(t, target)
	for range 20 {
		state, err := c.State(t.Context())
		if err != nil || state != power.On {
			t.Fatalf("%q, %v", state, err)
		}
	}
	sensors, err := c.Sensors(t.Context())
	if err != nil || len(sensors) != 2 || sensors[0].Value == nil || *sensors[0].Value != 0x60 {
		t.Errorf("%+v, %v", sensors, err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSequenceWindow(t *testing.T) {
	g := &guard{}
	for _, step := range []struct {
		sequence uint32
		fresh    bool
	}{
		{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false}, {40, true}, {9, true}, {9, false}, {8, false},
		{1 << 31, true}, {1<<31 - 5, true}, {1<<31 - 5, false}, {40, false}, {1<<32 - 1, true}, {1, false},
	} {
		if got := g.fresh(step.sequence); got != step.fresh {
			t.Errorf("%d: %v", step.sequence, got)
		}
	}
}

// What is let in, the library decodes without a panic.
func FuzzGuard(f *testing.F) {
	for _, seed := range []string{
		"0600ff0700000000000000000010811c6320043800019706030000000003",
		"0600ff070611000000000000000002000004",
		"0600ff0706110000000000000000240000000000a3a2a1a002000000000000080100000001000008010000000200000801000000",
		"0600ff07061300000000000000003c0000000000a3a2a1a00a7f8bc47dfdc500b0c943fbe8c32963a123456789abcdefa123456789abcdef18f62749ad6d5f46f37234c25fc045f0f4c0c9a7",
		"0600ff0706150000000000000000140000000000a3a2a1a0bef8840cf46fdce792fd201a",
		"0600ff0706c0a3a2a1a0010000002000fd0192aaa87ebde1917e3f19764f79d1c23b8a087f3fbe8a7c3bc46a147d28ffffff0207dbd0b138afbd711a39c47e86",
	} {
		for sent := range byte(4) {
			f.Add(unhex(f, seed), sent)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, stage byte) {
		g := &guard{
			user: "teeth", password: "x", consoleID: 0xa0a1a2a3,
			sent:      []byte{0, payloadOpenRequest, payloadRAKP1, payloadRAKP3}[stage%4],
			active:    stage%8 == 7,
			auth:      types.AuthAlg_HMAC_SHA1,
			integrity: types.IntegrityAlg_HMAC_SHA1_96,
			k1:        make([]byte, 20), k2: make([]byte, 20),
		}
		active := g.active
		if g.admit(b) != nil {
			return
		}
		rmcp := &types.Rmcp{}
		if err := rmcp.Unpack(b); err != nil {
			return // the library says so itself
		}
		if active && (rmcp.Session20 == nil || !rmcp.Session20.SessionHeader20.PayloadEncrypted) {
			t.Errorf("let into a session without encryption: %x", b)
		}
	})
}
