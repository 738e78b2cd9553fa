// Package sandbox runs a program in namespaces of its own (mount, PID, IPC, UTS), with
// an app's directory as /, a /dev of a few devices, a read-only /sys, a /proc without
// what changes the machine, without privileges to gain, and with no capabilities but
// those asked for. The network is the machine's.
//
// The first process of the namespaces is this very program, started again under the
// name Arg0: it sets up what the kernel does not, starts the program, reaps what the
// program leaves behind, and tells how it ended. When it ends, the kernel kills every
// process in there; it ends when the process that started it does.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Arg0 is the name under which a program is a sandbox's first process.
const Arg0 = "teeth-app-init"

// Setup says what is run and what it sees. Its paths in the app's root are those that
// the program sees.
type Setup struct {
	Root     string // directory that becomes /
	Host     bool   // show the machine's directories read-only below what Root has
	Hostname string
	// Devices are paths below /dev on the machine.
	Devices      []string
	Capabilities []string // such as CAP_SYS_RAWIO
	WritableSys  bool

	Command  []string
	Env      map[string]string
	EnvFiles []string // as manifest.Service
	Expand   bool     // variables in Command
	Dir      string   // "/" if empty
	UID, GID uint32
	Forking  bool // it runs on in the background when Command has ended well
}

// Exit is how a program ended.
type Exit struct {
	Code   int         // if Signal is 0
	Signal unix.Signal // that ended it
	// Err is why it could not be started, or what became of its sandbox.
	Err error
}

// Status is as shells have it: 128 and the number for a signal, 127 if the program
// could not be started.
func (e Exit) Status() int {
	switch {
	case e.Err != nil:
		return 127
	case e.Signal != 0:
		return 128 + int(e.Signal)
	}
	return e.Code
}

// String tells people.
func (e Exit) String() string {
	switch {
	case e.Err != nil:
		return e.Err.Error()
	case e.Signal != 0:
		return "ended by " + unix.SignalName(e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// The two processes talk over a socket pair, in JSON: a Setup and then orders one way,
// one report the other.
const controlFD = 3

// order is for the program.
type order struct {
	Signal unix.Signal `json:"signal"`
}

// report is the last thing that the first process says.
type report struct {
	Error  string      `json:"error,omitempty"`
	Code   int         `json:"code"`
	Signal unix.Signal `json:"signal,omitempty"`
}

func (r report) exit() Exit {
	e := Exit{Code: r.Code, Signal: r.Signal}
	if r.Error != "" {
		e.Err = errors.New(r.Error)
	}
	return e
}

// Init turns this process into a sandbox's first one if it was started as that, and
// does not return then. Every program that uses Start must call it first in main, and
// every test in TestMain.
func Init() {
	if len(os.Args) == 0 || os.Args[0] != Arg0 || os.Getpid() != 1 {
		return
	}
	unix.CloseOnExec(controlFD)
	control := os.NewFile(controlFD, "control")
	r := first(control)
	if err := json.NewEncoder(control).Encode(r); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, Arg0+":", err)
	}
	syscall.Exit(0) // at once: nothing is left to do here
}
