// Package minion is the codec of Minion's protocol between agents and a
// StreamServer: frames over TCP or TLS.
//
//	frame   = length payload             length: 2 bytes, big-endian, of the payload alone
//	payload = [verb, id, data]           MessagePack
//	data    = [(text | [text…])…]
//
// What an agent sends begins its data with its group's and its own id; what a server
// sends does not. The agent's first frame is C "authenticate-agent". It is answered R
// [id of the request, "accepted" or "denied"], as every request is answered R with
// the request's id first.
//
// # Acknowledgements
//
// The original neither acknowledges records nor takes one twice: a second row with
// the same id makes it lose a batch. Our two ends agree on more, in words that the
// original ignores. After "accepted" an agent sends C "acknowledge"; a server that
// knows it answers R [id of the request, "acknowledging"], and from then on R [id,
// "recorded-through"], which says of the log, telemetry and response frames of this
// connection, in the order they were sent, that all up to the one with that id are
// kept durably. The agent drops them only then, and sends the others again, under the
// same ids, on its next connection: such a server keeps a record of one id once.
//
// To a peer that acknowledges, a response has three more texts (see [Result]), and a
// command may begin with options (see [Command]).
package minion

// Bounds of a payload, in bytes. The document allows 8192 for length and payload
// together; the original's buffers hold 65535 bytes.
const (
	MaxSent     = 8190  // what we send
	MaxAccepted = 65535 // what we take
)

// MaxUnacknowledged is how many records an agent may have sent that the server has not
// acknowledged.
const MaxUnacknowledged = 16384

// prefix is the size of a frame's length.
const prefix = 2
