package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Monitor runs one command of the QEMU Machine Protocol and decodes its answer
// into result, unless that is nil.
func (c *Chassis) Monitor(ctx context.Context, command string, arguments, result any) error {
	conn, err := dialUnix(ctx, filepath.Join(c.Spec.Dir, "qmp.sock"))
	if err != nil {
		return fmt.Errorf("chassis %s: monitor: %w", c.Spec.Name, err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("chassis %s: monitor: %w", c.Spec.Name, err)
	}
	in := json.NewDecoder(bufio.NewReader(conn))
	var greeting json.RawMessage
	if err := in.Decode(&greeting); err != nil {
		return fmt.Errorf("chassis %s: monitor greeting: %w", c.Spec.Name, err)
	}
	err = ask(conn, in, "qmp_capabilities", nil, nil)
	if err == nil {
		err = ask(conn, in, command, arguments, result)
	}
	if err != nil {
		return fmt.Errorf("chassis %s: monitor command %s: %w", c.Spec.Name, command, err)
	}
	return nil
}

func ask(conn net.Conn, in *json.Decoder, command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return err
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
			Event  string
		}
		if err := in.Decode(&reply); err != nil {
			return err
		}
		switch {
		case reply.Event != "":
			continue
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", reply.Error.Class, reply.Error.Desc)
		case result == nil:
			return nil
		}
		return json.Unmarshal(reply.Return, result)
	}
}

// dialUnix connects through /proc/self/fd, as a socket's address holds only
// 107 bytes and folders may be nested deeper than that.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// Console connects to the chassis's serial console: what is written is typed,
// what is read is what it prints from now on.
func (c *Chassis) Console(ctx context.Context) (net.Conn, error) {
	conn, err := dialUnix(ctx, filepath.Join(c.Spec.Dir, "console.sock"))
	if err != nil {
		return nil, fmt.Errorf("chassis %s: console: %w", c.Spec.Name, err)
	}
	return conn, nil
}
