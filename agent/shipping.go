package agent

import (
	"context"
	"log/slog"
	"slices"
)

// shipping is a log handler that also sends what it handles, from level info
// up, to the control plane.
type shipping struct {
	next slog.Handler
	send func(message string, fields map[string]any)
	with []with // outermost first
}

// with is one call of With or WithGroup.
type with struct {
	group string // or ""
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (s shipping) Enabled(ctx context.Context, l slog.Level) bool { return s.next.Enabled(ctx, l) }

// WithAttrs implements slog.Handler.
func (s shipping) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return s
	}
	return shipping{s.next.WithAttrs(attrs), s.send, append(slices.Clip(s.with), with{attrs: attrs})}
}

// WithGroup implements slog.Handler.
func (s shipping) WithGroup(name string) slog.Handler {
	if name == "" {
		return s
	}
	return shipping{s.next.WithGroup(name), s.send, append(slices.Clip(s.with), with{group: name})}
}

// Handle implements slog.Handler.
func (s shipping) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		var attrs []slog.Attr
		r.Attrs(func(at slog.Attr) bool {
			attrs = append(attrs, at)
			return true
		})
		for _, w := range slices.Backward(s.with) {
			if w.group != "" {
				attrs = []slog.Attr{{Key: w.group, Value: slog.GroupValue(attrs...)}}
			} else {
				attrs = slices.Concat(w.attrs, attrs)
			}
		}
		fields := map[string]any{}
		put(fields, attrs)
		fields["level"] = r.Level.String()
		s.send(r.Message, fields)
	}
	return s.next.Handle(ctx, r)
}

// put adds attrs to fields: values as text, groups as objects. As the contract
// of slog.Handler has it, empty attributes and groups are left out, and a group
// without a name is part of what it is in.
func put(fields map[string]any, attrs []slog.Attr) {
	for _, at := range attrs {
		v := at.Value.Resolve()
		switch {
		case at.Equal(slog.Attr{}):
		case v.Kind() != slog.KindGroup:
			fields[at.Key] = v.String()
		case at.Key == "":
			put(fields, v.Group())
		default:
			inner := map[string]any{}
			if put(inner, v.Group()); len(inner) > 0 {
				fields[at.Key] = inner
			}
		}
	}
}
