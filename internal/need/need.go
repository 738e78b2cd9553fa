// Package need is how tests say what they need of the machine. What is missing
// skips a test, so that `go test` is of use anywhere; under `make test`, which has
// installed it all, nothing may be missing, and the test fails.
package need

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Environment, if set to anything, says that scripts/setup has been run.
const Environment = "TEETH_TEST_COMPLETE"

// sbin is where Debian has programs that not every user's PATH leads to.
var sbin = []string{"/usr/sbin", "/sbin"}

// Program returns the path of a program that Debian has in package pkg.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range sbin {
		if err == nil || filepath.IsAbs(name) {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		missing(t, name, pkg)
	}
	return path
}

// File skips or fails the test unless the file is there, which Debian has in
// package pkg.
func File(t testing.TB, path, pkg string) {
	t.Helper()
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		missing(t, path, pkg)
	case err != nil:
		t.Fatal(err)
	}
}

// Installed is for what only its user can look for: err says that it is not there.
func Installed(t testing.TB, err error, pkg string) {
	t.Helper()
	if err != nil {
		missing(t, err.Error(), pkg)
	}
}

// PythonModule returns the path of Debian's Python, which has the module that is in
// package pkg. Another Python in PATH has not.
func PythonModule(t testing.TB, module, pkg string) string {
	t.Helper()
	const python = "/usr/bin/python3"
	Installed(t, exec.Command(python, "-c", "import "+module).Run(), pkg)
	return python
}

func missing(t testing.TB, what, pkg string) {
	t.Helper()
	if os.Getenv(Environment) != "" {
		t.Fatalf("%s is missing although scripts/setup has been run, which installs Debian's package %s", what, pkg)
	}
	t.Skipf("%s is missing: install Debian's package %s, or run scripts/setup", what, pkg)
}

// Right is for what root can do and others may not be allowed to: err says why it
// cannot be done here.
func Right(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv(Environment) != "" && os.Geteuid() == 0 {
		t.Fatalf("root should be able to do this: %v", err)
	}
	t.Skip(err)
}

// Time skips the test under -short; why says what takes so long.
func Time(t testing.TB, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip(why + ": not with -short")
	}
}
