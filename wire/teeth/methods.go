package teeth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
)

// Canonical returns method in the document's spelling: standby.* becomes
// standbye.*.
func Canonical(method string) string {
	if rest, ok := strings.CutPrefix(method, "standby."); ok {
		return "standbye." + rest
	}
	return method
}

// Legacy returns method in the original agent's spelling: standbye.* becomes
// standby.*.
func Legacy(method string) string {
	if rest, ok := strings.CutPrefix(method, "standbye."); ok {
		return "standby." + rest
	}
	return method
}

// DecodeParams decodes the params of a command into v, a pointer to one of the
// params types. Keys it does not know are ignored. Its errors are
// *MethodErrors, in the original's words where the original had any: a key of
// required that is missing or null, and a value of the wrong type.
func DecodeParams(method string, params json.RawMessage, v any, required ...string) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(params, &keys); err != nil {
		return &MethodError{Msg: fmt.Sprintf("params of %q: %v", method, err)}
	}
	for _, k := range required {
		if val := keys[k]; val == nil || string(val) == "null" {
			return &MethodError{Msg: fmt.Sprintf("missing parameter %q in %q command", k, method)}
		}
	}
	err := json.Unmarshal(params, v)
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) && te.Type.Kind() == reflect.Slice && te.Field != "" {
		return &MethodError{Msg: fmt.Sprintf("%q must be a list", te.Field)}
	}
	if errors.As(err, &te) {
		return &MethodError{Msg: fmt.Sprintf("parameter %q in %q command: a JSON %s cannot be a %s", te.Field, method, te.Value, te.Type)}
	}
	if err != nil {
		return &MethodError{Msg: fmt.Sprintf("params of %q: %v", method, err)}
	}
	return nil
}

// Check reports what keeps t from being a task_status: no task id, an unknown
// state, a percentage outside 0 to 100, a negative ETA.
func (t TaskStatus) Check() error {
	switch {
	case t.TaskID == "":
		return errors.New("task_status without task_id")
	case t.State != Running && !t.State.Final():
		return fmt.Errorf("task_status of %q: state is %q, not running, error or complete", t.TaskID, t.State)
	case t.Percent != nil && !(*t.Percent >= 0 && *t.Percent <= 100):
		return fmt.Errorf("task_status of %q: percent is %v, not 0 to 100", t.TaskID, *t.Percent)
	case t.ETA != nil && !(*t.ETA >= 0 && *t.ETA <= math.MaxFloat64):
		return fmt.Errorf("task_status of %q: eta is %v seconds", t.TaskID, *t.ETA)
	}
	return nil
}

// MarshalJSON writes Fields beside message and time. Fields of those two names
// are not written.
func (l Log) MarshalJSON() ([]byte, error) {
	obj := make(map[string]any, len(l.Fields)+2)
	for k, v := range l.Fields {
		obj[k] = v
	}
	obj["message"], obj["time"] = l.Message, l.Time
	return json.Marshal(obj)
}

// UnmarshalJSON reads a log message. Numbers in Fields are json.Numbers. What a
// peer leaves out is empty, and a message that is not a string is kept as its
// JSON text: a log line is worth having in any state.
func (l *Log) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var obj map[string]any
	if err := dec.Decode(&obj); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("text after the log message")
	}
	*l = Log{}
	switch v := obj["message"].(type) {
	case nil:
	case string:
		l.Message = v
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		l.Message = string(raw)
	}
	if n, ok := obj["time"].(json.Number); ok {
		l.Time, _ = n.Float64() // out of range is no time; stays 0 or ±Inf
		if math.IsInf(l.Time, 0) {
			l.Time = 0
		}
	}
	delete(obj, "message")
	delete(obj, "time")
	if len(obj) > 0 {
		l.Fields = obj
	}
	return nil
}
