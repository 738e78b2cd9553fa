package bus

import (
	"encoding/base64"
	"strings"
)

// sendable reports whether an answer may be sent to this address. The broker makes
// those of direct reply-to itself: base64 of an Erlang process, a dot, a key. One
// that a peer has made up and that is no process makes it break the connection.
func sendable(replyTo string) bool {
	made, direct := strings.CutPrefix(replyTo, directReply+".")
	if !direct {
		return true
	}
	process, key, found := strings.Cut(made, ".")
	if !found {
		return true // to the broker an ordinary address of nobody
	}
	p, err := base64.StdEncoding.DecodeString(process)
	if err != nil {
		return false
	}
	_, err = base64.StdEncoding.DecodeString(key)
	return err == nil && isProcess(p)
}

// isProcess reports whether p is one process in Erlang's external term format: a
// node's name, and numbers of fixed length.
func isProcess(p []byte) bool {
	const version, pid, newPid = 131, 103, 88
	if len(p) < 5 || p[0] != version {
		return false
	}
	numbers := map[byte]int{pid: 9, newPid: 12}[p[1]]
	name := 0
	switch p[2] {
	case 100, 118: // an atom with two bytes of length, Latin-1 or UTF-8
		name = 3 + int(p[3])<<8 + int(p[4])
	case 115, 119: // with one
		name = 2 + int(p[3])
	default:
		return false
	}
	return numbers > 0 && len(p) == 2+name+numbers
}
