package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// serveEnv makes this test's program a control plane, so that it can be killed.
const (
	serveEnv    = "TEETH_TEST_SERVE"          // its data folder
	databaseEnv = "TEETH_TEST_SERVE_DATABASE" // if not in there
	brokerEnv   = "TEETH_TEST_SERVE_AMQP"     // "": none
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		c := testConfig(dir)
		c.Database = os.Getenv(databaseEnv)
		if broker := os.Getenv(brokerEnv); broker != "" {
			c.Messages.AMQP = []string{broker}
		}
		c.Ready = func(i Info) { json.NewEncoder(os.Stdout).Encode(i) }
		if err := Serve(context.Background(), c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// spawn runs a server in a process of its own.
func spawn(t *testing.T, dir string) (*running, *exec.Cmd) {
	t.Helper()
	return spawnOn(t, dir, "", "")
}

// spawnOn is spawn with a database and, unless it is empty, a broker.
func spawnOn(t *testing.T, dir, database, broker string) (*running, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), serveEnv+"="+dir, databaseEnv+"="+database, brokerEnv+"="+broker)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	s := &running{t: t, dir: dir}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s.info)
	}
	if err != nil {
		t.Fatalf("the server said %q: %v", line, err)
	}
	s.load()
	return s, cmd
}

// What the server has acknowledged survives kill -9 at any moment, over and over,
// while an agent reports as fast as it can.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	var run client.Graph
	acknowledged, completed := 0.0, 0
	methods := []string{teeth.MethodDiskErase, teeth.MethodFirmwareSecure, teeth.MethodQC}
	for round := range 6 {
		s, cmd := spawn(t, dir)
		boot := fmt.Sprint("boot", round)
		if round == 0 {
			a := connect(t, s, boot)
			s.chassis("ready")
			var err error
			if run, err = s.client.Decommission(ctx, testMAC, client.Decommission{}); err != nil {
				t.Fatal(err)
			}
			a.conn.Close()
		}
		now := s.run(run.ID)
		for i, task := range now.Tasks {
			if i < completed && task.State != "succeeded" {
				t.Fatalf("round %d: task %d was acknowledged as complete and is %s", round, i, task.State)
			}
			if i == completed && task.Percent < acknowledged {
				t.Fatalf("round %d: %v %% was acknowledged, %v %% is stored", round, acknowledged, task.Percent)
			}
		}
		if now.State == "succeeded" {
			break
		}
		a := connect(t, s, boot)
		var params struct {
			TaskID string `json:"task_id"`
			Disks  any    `json:"disks"`
		}
		a.accept(methods[completed], &params)
		if round%2 == 1 {
			a.report(teeth.TaskStatus{TaskID: params.TaskID, State: teeth.Complete})
			completed, acknowledged = completed+1, 0
			cmd.Process.Kill()
		} else {
			time.AfterFunc(300*time.Millisecond, func() { cmd.Process.Kill() })
			for seq := uint64(1); ; seq++ {
				p := min(acknowledged+0.01, 99)
				update, err := teeth.NewCommand(teeth.NewID(), teeth.MethodTaskStatus, teeth.TaskStatus{TaskID: params.TaskID, State: teeth.Running, Percent: &p, Seq: seq})
				if err != nil {
					t.Fatal(err)
				}
				a.send(update)
				select {
				case <-a.replies:
					acknowledged = p
					continue
				case <-a.closed:
				case <-time.After(patience):
					t.Fatal("neither a reply nor the end of the connection")
				}
				break
			}
		}
		a.waitClosed()
		cmd.Wait()
	}
	s, _ := spawn(t, dir)
	if r := s.run(run.ID); r.State != "succeeded" {
		t.Errorf("%+v", r)
	}
}
