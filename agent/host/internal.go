package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/command"
)

// secretCommands are those whose arguments are configurations.
var secretCommands = []string{"set-config", "validate-config"}

// internal is the commands of the agent itself, with the names of the original's.
func (h *host) internal() map[string]command.Func {
	return map[string]command.Func{
		"status":          h.status,
		"version":         command.Version(h.version),
		"get-config":      h.getConfig,
		"validate-config": h.validateConfig,
		"set-config":      h.setConfig,
		"restart":         h.restart,
		"upgrade":         h.upgrade,
	}
}

// status is how the agent does.
func (h *host) status(context.Context, []string) (string, error) {
	st := h.spool.Stats()
	peer, connected := h.client.Connected()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return command.JSON(map[string]any{
		"agent": h.version, "id": h.c.ServerID, "name": h.c.ServerName, "group": h.c.GroupID,
		"uptime_seconds": int64(time.Since(h.began).Seconds()), "connected": connected, "streamserver": peer.Address,
		"records_waiting": st.Records, "records_dropped": st.Dropped, "spool_bytes": st.Disk, "memory_bytes": m.Sys,
		"tail_logs": len(h.c.TailLogs), "telemetry_interval": h.c.TelemetryInterval,
	})
}

// getConfig is the file as it is, without its secrets.
func (h *host) getConfig(context.Context, []string) (string, error) {
	b, err := readConfig(h.path)
	if err != nil {
		return "", err
	}
	v, err := shown(b)
	if err != nil {
		return "", err
	}
	return command.JSON(map[string]any{"path": h.path, "config": v})
}

// validateConfig checks a configuration, the present one if none is given.
func (h *host) validateConfig(_ context.Context, args []string) (string, error) {
	b, err := readConfig(h.path)
	if err != nil && len(args) == 0 {
		return "", err
	}
	if len(args) > 0 {
		if b, err = complete([]byte(strings.Join(args, "\n")), b); err != nil {
			return "", err
		}
	}
	c, err := Parse(b)
	if err != nil {
		return "", err
	}
	if len(c.Unknown) > 0 {
		return "valid; left out: " + strings.Join(c.Unknown, "; ") + "\n", nil
	}
	return "valid\n", nil
}

// setConfig replaces the file by one that is valid.
func (h *host) setConfig(_ context.Context, args []string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("want the new configuration, as YAML")
	}
	present, err := readConfig(h.path)
	if err != nil {
		return "", err
	}
	b, err := complete([]byte(strings.Join(args, "\n")), present)
	if err != nil {
		return "", err
	}
	next, err := Parse(b)
	if err != nil {
		return "", fmt.Errorf("not written: %w", err)
	}
	if old, err := Parse(present); (h.c.Commands.Restricts() || old.Commands.Restricts()) && (err != nil || !onlyTunes(old, next)) {
		return "", errors.New("not written: refused by policy: as only certain programs are allowed here, servers may change server_name, telemetry_interval, spool_size and log, but not what the agent runs, reads, trusts or allows")
	}
	if err := replace(h.path, b); err != nil {
		return "", err
	}
	return "written; restart to use it\n", nil
}

// onlyTunes reports whether a configuration gives servers nothing that another does
// not: telemetry runs programs, files that are followed may hold secrets, and whoever
// signs upgrades or may connect to the agent has all of it.
func onlyTunes(old, next Config) bool {
	for _, c := range []*Config{&old, &next} {
		c.ServerName, c.TelemetryInterval, c.SpoolSize, c.Log, c.Unknown = "", 0, 0, 0, nil
	}
	return reflect.DeepEqual(old, next)
}

// restart starts the program anew, once its answer is on its way.
func (h *host) restart(context.Context, []string) (string, error) {
	if _, err := Load(h.path); err != nil {
		return "", fmt.Errorf("not restarted: %w", err)
	}
	program, err := self()
	if err != nil {
		return "", err
	}
	h.end(&replacement{program: program})
	return "restarting\n", nil
}

// upgrade installs the newest version, and starts it. The argument force takes an
// older one, too.
func (h *host) upgrade(ctx context.Context, args []string) (string, error) {
	force := len(args) == 1 && args[0] == "force"
	if len(args) > 0 && !force {
		return "", fmt.Errorf("argument %.40q: want none, or force", args[0])
	}
	u, err := h.upgrader()
	if err != nil {
		return "", err
	}
	r, err := u.Upgrade(ctx, force)
	if err != nil {
		return "", err
	}
	h.end(&replacement{program: u.Link()})
	b, err := json.Marshal(map[string]string{"version": r.Version, "from": h.version})
	return string(b), err
}
