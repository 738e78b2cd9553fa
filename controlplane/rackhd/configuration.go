package rackhd

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/teeth-metal/teeth/wire/rackhd"
)

// author is who changes something, in the store, when it came from the bus. The
// broker knows the user; the message does not tell.
const author = "bus"

func (s *Service) configurationMethods() []method {
	return []method{
		{key: "methods.get", handle: func(_ context.Context, c call) (any, error) {
			var in struct {
				Key string `json:"key"`
			}
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			value, err := s.c.Settings.Get(in.Key)
			return rackhd.Result{Value: value}, err
		}},
		{key: "methods.set", handle: func(ctx context.Context, c call) (any, error) {
			var in struct {
				Key   string          `json:"key"`
				Value json.RawMessage `json:"value"`
			}
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			if in.Value == nil {
				return nil, badRequest("setting %.80q: no value given", in.Key)
			}
			if err := s.c.Settings.Set(ctx, in.Key, in.Value, author); err != nil {
				return nil, err
			}
			s.c.Log.Log(ctx, slog.LevelInfo+2, "a setting was changed from the bus", "key", in.Key, "value", string(in.Value))
			value, err := s.c.Settings.Get(in.Key)
			return rackhd.Result{Value: value}, err
		}},
	}
}
