package agent

import (
	"context"
	"log/slog"
)

// shipping is a log handler that also sends what it handles, from level info
// up, to the control plane.
type shipping struct {
	slog.Handler
	send func(message string, fields map[string]any)
}

// Handle implements slog.Handler.
func (s shipping) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		fields := map[string]any{"level": r.Level.String()}
		r.Attrs(func(at slog.Attr) bool {
			fields[at.Key] = at.Value.Resolve().String()
			return true
		})
		s.send(r.Message, fields)
	}
	return s.Handler.Handle(ctx, r)
}
