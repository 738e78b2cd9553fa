// Package teeth is the codec of the native protocol between an agent and its
// control plane: JSON objects, one on a line, commands and replies in both
// directions over one connection. It opens no sockets and starts no goroutines;
// both ends use it.
//
// A line on the wire has the exact shape that the original agent's Python
// encoder gave it: ASCII only, a space after ':' and ',', keys in the order id,
// version, method, params (or id, version, result). Numbers are kept as they
// were written.
//
// Reading is strict where the original ended the session, with its words (see
// Parse), and liberal elsewhere: CR LF and blank lines, keys nobody knows, an
// error that is a string or an object. Of a key that occurs twice the last one
// counts, at every depth, as in Python's and Go's decoders. docs/protocol.md
// tells the whole protocol.
package teeth

const (
	// Version is the only message version there is.
	Version = "v1"

	// MaxLine is the longest line in bytes, without its line feed. A peer that
	// sends a longer one is cut off without a fatal error.
	MaxLine = 512 * 1024

	// MaxDepth is how deep objects and arrays may nest in a line, the message
	// itself counted.
	MaxDepth = 64

	// ServerName is the DNS name in every control plane's TLS certificate. A
	// chassis knows its control plane by address and by the digest of its CA,
	// so the name is the same everywhere. ".internal" is reserved for private
	// use.
	ServerName = "control-plane.teeth.internal"
)
