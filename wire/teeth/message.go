package teeth

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// Kind says what a Message is.
type Kind int

// The four kinds of message.
const (
	KindCommand Kind = iota + 1 // ID, Version, Method, Params
	KindResult                  // ID, Version, Result
	KindError                   // ID, Version, Err
	KindFatal                   // Fatal; the session is over
)

// Message is one line. Which fields count depends on Kind.
type Message struct {
	Kind    Kind
	ID      json.RawMessage // any JSON value but null, false, 0 and empty ones; echoed in the reply
	Version string
	Method  string
	Params  json.RawMessage // always an object
	Result  json.RawMessage // any JSON value; "null" is a result too
	Err     *MethodError
	Fatal   string
}

// MethodError is a command's failure, for the peer that sent the command. The
// session goes on.
type MethodError struct {
	Msg   string                     // for people
	Extra map[string]json.RawMessage // fields of the error object beside msg
}

// Error returns Msg.
func (e *MethodError) Error() string { return e.Msg }

// What a peer is told before the session ends, in the original's words.
const (
	FatalDecode        = "protocol error: unable to decode message."
	FatalMalformed     = "protocol error: malformed message."
	FatalNoVersion     = "protocol violation: missing message version."
	FatalNoID          = "protocol violation: missing message id."
	FatalNoParams      = "protocol violation: missing message params."
	FatalParamsType    = "protocol violation: message params must be an object."
	FatalUnknownID     = "protocol violation: unknown message id referenced."
	FatalUnsupported   = "protocol violation: unsupported command."
	FatalVersion       = "unknown message version"
	FatalUnknownMethod = "unknown message method"
)

// ViolationError is a breach of the protocol by the peer. The session must end,
// with Fatal as the last message.
type ViolationError struct {
	Fatal string // one of the Fatal constants
	Err   error  // what is wrong with the line in detail, for the log; may be nil
}

func (e *ViolationError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s (%v)", e.Fatal, e.Err)
	}
	return e.Fatal
}

// Unwrap returns Err.
func (e *ViolationError) Unwrap() error { return e.Err }

// NewID returns a random message id, a version 4 UUID (RFC 9562).
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// NewCommand returns a command. Params must encode to a JSON object; nil stands
// for an empty one.
func NewCommand(id, method string, params any) (Message, error) {
	m := Message{Kind: KindCommand, Version: Version, Method: method, Params: json.RawMessage("{}")}
	var err error
	if m.ID, err = json.Marshal(id); err != nil {
		return Message{}, fmt.Errorf("id of %s: %w", method, err)
	}
	if params != nil {
		if m.Params, err = json.Marshal(params); err != nil {
			return Message{}, fmt.Errorf("params of %s: %w", method, err)
		}
	}
	return m, nil
}

// NewResult returns the answer to the command with that id. A nil v is the
// result null.
func NewResult(id json.RawMessage, v any) (Message, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Message{}, fmt.Errorf("result: %w", err)
	}
	return Message{Kind: KindResult, ID: id, Version: Version, Result: b}, nil
}

// NewError returns the refusal of the command with that id. An err that is, or
// wraps, a *MethodError keeps its extra fields.
func NewError(id json.RawMessage, err error) Message {
	me := &MethodError{Msg: err.Error()}
	var inner *MethodError
	if errors.As(err, &inner) {
		me.Extra = inner.Extra
	}
	return Message{Kind: KindError, ID: id, Version: Version, Err: me}
}

// NewFatal returns the message that ends a session.
func NewFatal(text string) Message { return Message{Kind: KindFatal, Fatal: text} }

// Parse reads one line, with or without its line end. Its error is always a
// *ViolationError. The checks are made in the original's order: decodable, fatal
// error, version, id, then command, error, result. That a reply refers to a
// command that was sent, and that a method exists, is for the caller to check
// (FatalUnknownID, FatalUnknownMethod).
func Parse(line []byte) (Message, error) {
	line = trim(line)
	if err := check(line, MaxDepth); err != nil {
		return Message{}, &ViolationError{Fatal: FatalDecode, Err: err}
	}
	if line[0] != '{' {
		// The original crashed here and closed the connection without a word.
		return Message{}, &ViolationError{Fatal: FatalMalformed, Err: errors.New("not a JSON object")}
	}
	var obj map[string]json.RawMessage // exact keys, unlike a struct
	if err := json.Unmarshal(line, &obj); err != nil {
		return Message{}, &ViolationError{Fatal: FatalDecode, Err: err}
	}
	if v, ok := obj["fatal_error"]; ok {
		return NewFatal(text(v)), nil
	}
	if !truthy(obj["version"]) {
		return Message{}, &ViolationError{Fatal: FatalNoVersion}
	}
	if !truthy(obj["id"]) {
		return Message{}, &ViolationError{Fatal: FatalNoID}
	}
	m := Message{ID: obj["id"]}
	versionOK := json.Unmarshal(obj["version"], &m.Version) == nil

	if method, ok := obj["method"]; ok {
		m.Kind, m.Params = KindCommand, obj["params"]
		switch {
		case m.Params == nil:
			return Message{}, &ViolationError{Fatal: FatalNoParams}
		case m.Params[0] != '{':
			return Message{}, &ViolationError{Fatal: FatalParamsType}
		case m.Version != Version:
			return Message{}, &ViolationError{Fatal: FatalVersion}
		}
		if json.Unmarshal(method, &m.Method) != nil || m.Method == "" {
			return Message{}, &ViolationError{Fatal: FatalUnknownMethod, Err: errors.New("method is not a name")}
		}
		return m, nil
	}
	// The original takes a reply of any version; one that is no string could
	// not be a version of anything.
	if !versionOK {
		return Message{}, &ViolationError{Fatal: FatalVersion}
	}
	if v, ok := obj["error"]; ok {
		m.Kind, m.Err = KindError, parseError(v)
		return m, nil
	}
	if v, ok := obj["result"]; ok {
		m.Kind, m.Result = KindResult, v
		return m, nil
	}
	return Message{}, &ViolationError{Fatal: FatalMalformed}
}

// parseError takes both forms: the document's object with msg, and the plain
// string that the original sends.
func parseError(v json.RawMessage) *MethodError {
	var obj map[string]json.RawMessage
	if v[0] != '{' || json.Unmarshal(v, &obj) != nil {
		return &MethodError{Msg: text(v)}
	}
	e := &MethodError{}
	if msg, ok := obj["msg"]; ok {
		e.Msg = text(msg)
		delete(obj, "msg")
	}
	if len(obj) > 0 {
		e.Extra = obj
	}
	return e
}

// text returns the string in v, or v's JSON text when it is something else.
func text(v json.RawMessage) string {
	var s string
	if err := json.Unmarshal(v, &s); err != nil { // null is ""
		return string(v)
	}
	return s
}

// truthy is Python's idea of it; nil (no such key) is not.
func truthy(v json.RawMessage) bool {
	switch {
	case len(v) == 0:
		return false
	case v[0] == 't':
		return true
	case v[0] == 'n', v[0] == 'f':
		return false
	case v[0] == '"':
		return len(v) > 2
	case v[0] == '{', v[0] == '[':
		return len(v) > 2 && len(trim(v[1:len(v)-1])) > 0
	}
	f, err := strconv.ParseFloat(string(v), 64)
	return f != 0 || err != nil
}

// trim removes what Python's str.strip removes.
func trim(b []byte) []byte { return bytes.Trim(b, " \t\n\r\v\f") }

// check reports why b is not one JSON value (RFC 8259) of at most maxDepth.
func check(b []byte, maxDepth int) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	if jsondepth.Exceeds(b, maxDepth) {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if !json.Valid(b) {
		return errors.New("not JSON")
	}
	return nil
}
