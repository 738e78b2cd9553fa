package ipmi

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// guard stands between the IPMI library and the network. The library decodes
// what comes in without checking its integrity code and on a goroutine of its
// own, where a datagram made up by anybody would end this program. So guard
// follows the session being set up, derives its keys, and lets in only what the
// standard says may come at that moment: well-formed, and in a session
// authenticated, encrypted, new, and addressed to it (IPMI v2.0, sections 13.6
// and 13.28).
type guard struct {
	net.Conn
	user, password string

	mu          sync.Mutex
	sent        byte // payload type of the last set-up message
	consoleRand [16]byte
	role        byte
	consoleID   uint32
	auth        types.AuthAlg
	integrity   types.IntegrityAlg
	k1, k2      []byte
	active      bool
	newest      uint32 // sequence number
	window      uint32 // bit n: newest-n has come
	status      byte   // RMCP+ status with which the BMC refused
	refused     string // why the last datagram was
}

// Payload types of the session's set-up, table 13-16.
const (
	payloadIPMI        = 0x00
	payloadOpenRequest = 0x10
	payloadOpenAnswer  = 0x11
	payloadRAKP1       = 0x12
	payloadRAKP2       = 0x13
	payloadRAKP3       = 0x14
	payloadRAKP4       = 0x15
)

const (
	rmcpHeader    = 4
	header15      = 10 // without authentication code
	header20      = 12
	formatRMCP20  = 0x06
	maxDatagram   = 1024
	minAnswer     = 8 // an IPMI response with completion code and checksum
	maxAllowedGap = 32
)

// Write notes what of the set-up goes out, and sends it.
func (g *guard) Write(b []byte) (int, error) {
	if len(b) > rmcpHeader+header20 && b[4] == formatRMCP20 {
		p := b[rmcpHeader+header20:]
		g.mu.Lock()
		switch t := b[5] & 0x3f; t {
		case payloadOpenRequest:
			g.sent, g.active, g.k1, g.k2 = t, false, nil, nil
			if len(p) >= 8 {
				g.consoleID = binary.LittleEndian.Uint32(p[4:])
			}
		case payloadRAKP1:
			g.sent = t
			if len(p) >= 25 {
				copy(g.consoleRand[:], p[8:24])
				g.role = p[24]
			}
		case payloadRAKP3:
			g.sent = t
		}
		g.mu.Unlock()
	}
	return g.Conn.Write(b)
}

// Read returns the next datagram that may come in.
func (g *guard) Read(b []byte) (int, error) {
	for {
		n, err := g.Conn.Read(b)
		if err != nil {
			return n, err
		}
		g.mu.Lock()
		err = g.admit(b[:n])
		if err != nil {
			g.refused = err.Error()
		}
		g.mu.Unlock()
		if err == nil {
			return n, nil
		}
	}
}

func (g *guard) admit(b []byte) error {
	if len(b) < rmcpHeader+header15 || len(b) > maxDatagram || b[0] != 0x06 || b[3] != 0x07 {
		return fmt.Errorf("a datagram of %d bytes that is no IPMI message", len(b))
	}
	if b[4] != formatRMCP20 {
		return g.admit15(b)
	}
	if len(b) < rmcpHeader+header20 {
		return fmt.Errorf("a message of %d bytes, too short for RMCP+", len(b))
	}
	payload := b[5] & 0x3f
	encrypted, authenticated := b[5]&0x80 != 0, b[5]&0x40 != 0
	id, sequence := binary.LittleEndian.Uint32(b[6:]), binary.LittleEndian.Uint32(b[10:])
	length := int(binary.LittleEndian.Uint16(b[14:]))
	if length > len(b)-rmcpHeader-header20 {
		return fmt.Errorf("a message that says it has %d bytes more than it has", length-(len(b)-rmcpHeader-header20))
	}
	p := b[16 : 16+length]
	switch payload {
	case payloadOpenAnswer, payloadRAKP2, payloadRAKP4:
		if encrypted || authenticated || g.active || payload != g.sent+1 {
			return fmt.Errorf("a set-up message (payload type %#x) out of turn", payload)
		}
		return g.admitSetUp(payload, p)
	case payloadIPMI:
		if !g.active || !encrypted || !authenticated || id != g.consoleID {
			return fmt.Errorf("a message outside of the session")
		}
		return g.admitSession(b, p, sequence)
	}
	return fmt.Errorf("a message of payload type %#x, which was not asked for", payload)
}

// admit15 admits the answer to Get Channel Authentication Capabilities, which
// comes before the session and in the format of IPMI v1.5.
func (g *guard) admit15(b []byte) error {
	if g.sent != 0 || b[4] != 0 || binary.LittleEndian.Uint32(b[9:]) != 0 {
		return fmt.Errorf("a message in the format of IPMI v1.5 out of turn")
	}
	if length := int(b[13]); length < minAnswer || length > len(b)-rmcpHeader-header15 {
		return fmt.Errorf("a message in the format of IPMI v1.5 with a wrong length")
	}
	return nil
}

func (g *guard) admitSetUp(payload byte, p []byte) error {
	if len(p) >= 2 && p[1] != 0 { // refused: the rest need not be there
		g.status = p[1]
		return nil
	}
	if len(p) < 8 {
		return fmt.Errorf("a set-up message of %d bytes", len(p))
	}
	if binary.LittleEndian.Uint32(p[4:]) != g.consoleID {
		return fmt.Errorf("a set-up message of another session")
	}
	switch payload {
	case payloadOpenAnswer:
		if len(p) < 36 {
			return fmt.Errorf("an Open Session Response of %d bytes", len(p))
		}
		auth, integrity, crypt := types.AuthAlg(p[16]&0x3f), types.IntegrityAlg(p[24]&0x3f), types.CryptAlg(p[32]&0x3f)
		sha1 := auth == types.AuthAlg_HMAC_SHA1 && integrity == types.IntegrityAlg_HMAC_SHA1_96
		sha256 := auth == types.AuthAlg_HMAC_SHA256 && integrity == types.IntegrityAlg_HMAC_SHA256_128
		if !sha1 && !sha256 || crypt != types.CryptAlg_AES_CBC_128 {
			return fmt.Errorf("an Open Session Response with algorithms %d/%d/%d, which were not proposed", auth, integrity, crypt)
		}
		g.auth, g.integrity = auth, integrity
	case payloadRAKP2:
		if len(p) < 40+crypto.RAKP2AuthCodeLen(g.auth) {
			return fmt.Errorf("a RAKP message 2 of %d bytes", len(p))
		}
		_, k1, k2, err := crypto.DeriveSessionKeys(g.auth, g.consoleRand[:], p[8:24], g.role, g.user, crypto.PadPassword20([]byte(g.password)))
		if err != nil {
			return fmt.Errorf("session keys: %w", err)
		}
		g.k1, g.k2 = k1, k2
	case payloadRAKP4:
		if len(p) < 8+crypto.RAKP4ICVLen(g.auth) || len(g.k2) < 16 {
			return fmt.Errorf("a RAKP message 4 of %d bytes", len(p))
		}
		g.active, g.newest, g.window, g.status = true, 0, 0, 0
	}
	return nil
}

// admitSession checks a message of the active session: b as a whole, p its
// encrypted payload.
func (g *guard) admitSession(b, p []byte, sequence uint32) error {
	code, ok := crypto.IntegrityAuthCodeLen(g.integrity)
	covered := len(b) - code // by the integrity code: with pad, pad length and next header
	if !ok || covered < rmcpHeader+header20+len(p)+2 {
		return fmt.Errorf("a message of the session with a wrong trailer")
	}
	want, err := crypto.SessionIntegrityAuthCode(g.integrity, b[rmcpHeader:covered], g.k1, g.password)
	if err != nil {
		return fmt.Errorf("integrity code: %w", err)
	}
	if !hmac.Equal(want, b[covered:]) {
		return fmt.Errorf("a message of the session whose integrity code is wrong")
	}
	if len(p) < 32 || len(p)%16 != 0 {
		return fmt.Errorf("an encrypted payload of %d bytes", len(p))
	}
	plain, err := crypto.DecryptAESPayload(p, g.k2)
	if err != nil {
		return fmt.Errorf("encrypted payload: %w", err)
	}
	if len(plain) < minAnswer {
		return fmt.Errorf("an IPMI message of %d bytes", len(plain))
	}
	if !g.fresh(sequence) {
		return fmt.Errorf("a message of the session that has come before")
	}
	return nil
}

// fresh reports whether a sequence number has not come yet, and notes it.
func (g *guard) fresh(sequence uint32) bool {
	switch {
	case sequence == 0:
		return false
	case sequence > g.newest:
		if shift := sequence - g.newest; shift < maxAllowedGap {
			g.window = g.window<<shift | 1
		} else {
			g.window = 1
		}
		g.newest = sequence
		return true
	case g.newest-sequence >= maxAllowedGap || g.window&(1<<(g.newest-sequence)) != 0:
		return false
	}
	g.window |= 1 << (g.newest - sequence)
	return true
}

// refusal is the RMCP+ status with which the BMC refused the session, or what it
// last sent that was not let in.
func (g *guard) refusal() (status byte, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status, g.refused
}
