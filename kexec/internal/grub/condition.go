package grub

import (
	"strconv"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

// test evaluates the arguments of the test command ("[").
func (m *machine) test(args []string) bool {
	t := tester{m: m, args: args}
	yes := t.or(0)
	return yes && len(t.args) == 0
}

type tester struct {
	m    *machine
	args []string
}

func (t *tester) peek(i int) string {
	if i < len(t.args) {
		return t.args[i]
	}
	return ""
}

func (t *tester) or(depth int) bool {
	yes := t.and(depth)
	for t.peek(0) == "-o" {
		t.args = t.args[1:]
		yes = t.and(depth) || yes
	}
	return yes
}

func (t *tester) and(depth int) bool {
	yes := t.primary(depth)
	for t.peek(0) == "-a" {
		t.args = t.args[1:]
		yes = t.primary(depth) && yes
	}
	return yes
}

func (t *tester) primary(depth int) bool {
	if len(t.args) == 0 || depth > maxDepth {
		return false
	}
	if len(t.args) >= 3 {
		if yes, ok := t.binary(t.args[0], t.args[1], t.args[2]); ok {
			t.args = t.args[3:]
			return yes
		}
	}
	switch t.args[0] {
	case "!":
		t.args = t.args[1:]
		return !t.primary(depth + 1)
	case "(":
		t.args = t.args[1:]
		yes := t.or(depth + 1)
		if t.peek(0) == ")" {
			t.args = t.args[1:]
		}
		return yes
	}
	if len(t.args) >= 2 {
		if yes, ok := t.unary(t.args[0], t.args[1]); ok {
			t.args = t.args[2:]
			return yes
		}
	}
	yes := t.args[0] != ""
	switch t.args[0] {
	case "-z": // its operand was an empty variable without quotes
		yes = true
	case "-n", "-e", "-f", "-d", "-s":
		yes = false
	}
	t.args = t.args[1:]
	return yes
}

func (t *tester) unary(op, arg string) (yes, ok bool) {
	switch op {
	case "-n":
		return arg != "", true
	case "-z":
		return arg == "", true
	case "-e", "-f", "-d", "-s":
	default:
		return false, false
	}
	f, err := t.m.resolve(arg)
	if err != nil {
		return false, true
	}
	size, err := rootfs.Size(f.Volume.FS, f.Path)
	switch op {
	case "-f":
		return err == nil, true
	case "-s":
		return err == nil && size > 0, true
	case "-d":
		return rootfs.IsDir(f.Volume.FS, f.Path), true
	}
	return err == nil || rootfs.IsDir(f.Volume.FS, f.Path), true
}

func (t *tester) binary(a, op, b string) (yes, ok bool) {
	switch op {
	case "=", "==":
		return a == b, true
	case "!=":
		return a != b, true
	case "<":
		return a < b, true
	case ">":
		return a > b, true
	}
	x, errX := strconv.ParseInt(a, 0, 64)
	y, errY := strconv.ParseInt(b, 0, 64)
	good := errX == nil && errY == nil
	switch op {
	case "-eq":
		return good && x == y, true
	case "-ne":
		return good && x != y, true
	case "-lt":
		return good && x < y, true
	case "-le":
		return good && x <= y, true
	case "-gt":
		return good && x > y, true
	case "-ge":
		return good && x >= y, true
	}
	return false, false
}
