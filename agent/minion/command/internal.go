package command

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"
)

// Version is the internal command "version": JSON with the agent's version, that of
// its compiler, and the revision it was built of, as far as that is known.
func Version(version string) Func {
	return func(context.Context, []string) (string, error) {
		v := map[string]any{"agent": version, "go": runtime.Version(), "arch": runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					v["revision"] = s.Value
				}
			}
		}
		return JSON(v)
	}
}

// JSON is what an internal command has to say as JSON.
func JSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}
