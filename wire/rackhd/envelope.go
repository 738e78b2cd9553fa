package rackhd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// ContentType is the only one that RackHD's services parse the body of.
const ContentType = "application/json"

// Bounds of a message's body.
const (
	MaxBody  = 1 << 20 // bytes
	MaxDepth = 64      // of nesting
)

// Types of a message, in AMQP's type property.
const (
	TypeObject     = "Object"
	TypeResult     = "Result"
	TypeIPAddress  = "IpAddress"
	TypeMACAddress = "MacAddress"
	TypeError      = "ErrorEvent"
	TypeLog        = "LogEvent"
)

// ErrInvalid is wrapped by all errors about a message.
var ErrInvalid = errors.New("invalid message")

// Typed is a body that is not a plain object.
type Typed interface{ TypeName() string }

// Encode returns the type property and the body of v. A value that does not
// become a JSON object, or too large a one, is an error: sent, it would cost
// peers their connection.
func Encode(v any) (typ string, body []byte, err error) {
	typ = TypeObject
	if t, ok := v.(Typed); ok {
		typ = t.TypeName()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	body = bytes.TrimRight(b.Bytes(), "\n")
	if err := CheckBody(body, MaxBody); err != nil {
		return "", nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	return typ, body, nil
}

// Check reports what is wrong with a message that has come in. Besides what
// RackHD's services parse, it lets pass a missing content type and parameters of
// it, as other programs send them.
func Check(contentType string, body []byte) error {
	if contentType != "" {
		media, _, err := mime.ParseMediaType(contentType)
		if err != nil || media != "application/json" && media != "text/json" {
			return fmt.Errorf("%w: content type %.80q: want %s", ErrInvalid, contentType, ContentType)
		}
	}
	return CheckBody(body, MaxBody)
}

// CheckBody reports whether body is a JSON object of at most limit bytes, nested
// at most MaxDepth deep. It does not recurse and allocates little.
func CheckBody(body []byte, limit int) error {
	if len(body) > limit {
		return fmt.Errorf("%w: %d bytes, the most is %d", ErrInvalid, len(body), limit)
	}
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return fmt.Errorf("%w: the body is not a JSON object", ErrInvalid)
	}
	if !utf8.Valid(body) {
		return fmt.Errorf("%w: the body is not UTF-8", ErrInvalid)
	}
	if jsondepth.Exceeds(trimmed, MaxDepth) {
		return fmt.Errorf("%w: nested deeper than %d", ErrInvalid, MaxDepth)
	}
	if !json.Valid(body) {
		return fmt.Errorf("%w: the body is not valid JSON", ErrInvalid)
	}
	return nil
}

// Decode checks a message and reads it into v. Keys that v does not have are
// passed over: peers of other versions send more.
func Decode(contentType string, body []byte, v any) error {
	if err := Check(contentType, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("%w: JSON Schema Violation: %.80s: got a JSON %s", ErrInvalid, wrong.Field, wrong.Value)
		}
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}
