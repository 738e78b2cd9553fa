package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/manifest"
)

// defaultPath is where programs are looked for.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// first is the first process of the namespaces.
func first(control io.ReadWriter) report {
	runtime.LockOSThread() // what is dropped here is dropped by this thread, which forks
	// Signals that nobody catches end a Go program, and whatever is in here may send
	// them. To ignore them would make the program ignore them, too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1,
		unix.SIGUSR2, unix.SIGABRT, unix.SIGALRM, unix.SIGPIPE)
	in := json.NewDecoder(bufio.NewReader(control))
	var s Setup
	if err := in.Decode(&s); err != nil {
		return report{Error: fmt.Sprintf("setup: %v", err)}
	}
	pid, err := begin(s)
	if err != nil {
		return report{Error: err.Error()}
	}
	go follow(in, pid, s.Forking)
	return reap(pid, s.Forking)
}

// begin sets up the sandbox and starts the program in it.
func begin(s Setup) (pid int, err error) {
	// Rather than the agent, the kernel shall choose this when memory is short.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0) // a kernel without is one without
	if err := enter(s); err != nil {
		return 0, err
	}
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return 0, fmt.Errorf("set host name: %w", err)
		}
	}
	unix.Umask(0o022)
	env, err := environment(s)
	if err != nil {
		return 0, err
	}
	argv := s.Command
	if s.Expand {
		argv = expand(argv, env)
	}
	if len(argv) == 0 {
		return 0, errors.New("no command")
	}
	program, err := lookPath(argv[0], env["PATH"])
	if err != nil {
		return 0, err
	}
	keep, err := drop(s.Capabilities)
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{
		Dir: s.Dir, Env: flatten(env), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	if s.UID != 0 || s.GID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID}
		attr.Sys.AmbientCaps = keep
	}
	pid, err = syscall.ForkExec(program, argv, attr)
	if err != nil {
		return 0, explain(program, attr.Dir, err)
	}
	return pid, nil
}

// explain says what the usual reasons are behind the kernel's short words.
func explain(program, dir string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		if st, serr := os.Stat(dir); serr != nil || !st.IsDir() {
			return fmt.Errorf("working directory %s: it is not there", dir)
		}
		hint = ": its interpreter or dynamic loader is not in the package: link it statically, pack its libraries, or use root: host"
	case errors.Is(err, unix.ENOEXEC):
		hint = ": it is not a program for this machine, or a script without #!"
	}
	return fmt.Errorf("start %s: %w%s", program, err, hint)
}

// lookPath finds a program as execvp does.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return check(name)
	}
	for dir := range strings.SplitSeq(path, ":") {
		if p, err := check(filepath.Join("/", dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("start %s: %w in %s", name, exec.ErrNotFound, path)
}

func check(p string) (string, error) {
	switch st, err := os.Stat(p); {
	case err != nil:
		return "", fmt.Errorf("start: %w in the package", err)
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return "", fmt.Errorf("start %s: it is not an executable file", p)
	}
	return p, nil
}

// environment is that of the program: nothing of ours.
func environment(s Setup) (map[string]string, error) {
	env := map[string]string{"PATH": defaultPath, "HOME": "/", "LANG": "C.UTF-8"}
	if s.Hostname != "" {
		env["TEETH_APP"] = s.Hostname
	}
	for k, v := range s.Env {
		env[k] = v
	}
	for _, f := range s.EnvFiles {
		name, optional := strings.CutPrefix(f, "-")
		b, err := readSmall(name)
		if err != nil {
			if optional && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("variables: %w", err)
		}
		more, err := manifest.ParseEnv(b)
		if err != nil {
			return nil, fmt.Errorf("variables: %s: %w", name, err)
		}
		for k, v := range more {
			env[k] = v
		}
	}
	return env, nil
}

func readSmall(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
}

// expand replaces variables as systemd.service(5) has it: ${NAME} anywhere by one
// piece of text, $NAME as a word of its own by as many words as it has, $$ by $.
func expand(argv []string, env map[string]string) []string {
	var out []string
	for i, w := range argv {
		if name, ok := strings.CutPrefix(w, "$"); ok && i > 0 && isName(name) {
			out = append(out, strings.Fields(env[name])...)
			continue
		}
		out = append(out, inWord(w, env))
	}
	return out
}

func inWord(w string, env map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(w, '$')
		if i < 0 || i+1 == len(w) {
			return b.String() + w
		}
		b.WriteString(w[:i])
		end := strings.IndexByte(w[i:], '}')
		switch {
		case w[i+1] == '$':
			b.WriteByte('$')
			w = w[i+2:]
		case w[i+1] == '{' && end > 0 && isName(w[i+2:i+end]):
			b.WriteString(env[w[i+2:i+end]])
			w = w[i+end+1:]
		default:
			b.WriteByte('$')
			w = w[i+1:]
		}
	}
}

func isName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func flatten(env map[string]string) []string {
	var out []string
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// follow passes on signals, and ends everything when nobody is there to give orders.
func follow(in *json.Decoder, pid int, all bool) {
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			syscall.Exit(1)
		}
		if all {
			pid = -1
		}
		_ = unix.Kill(pid, o.Signal) // it may be gone
	}
}

// reap waits for the program, and collects what others leave to the first process.
func reap(pid int, forking bool) report {
	var r report
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ECHILD: nothing is left
			return r
		}
		if got == pid || forking {
			r = report{}
			if ws.Signaled() {
				r.Signal = ws.Signal()
			} else {
				r.Code = ws.ExitStatus()
			}
		}
		if got == pid && (!forking || r.Code != 0 || r.Signal != 0) {
			return r
		}
	}
}
