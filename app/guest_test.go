package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
)

// Limits need control groups of version 2 with all controllers, and a chassis runs from
// its initramfs, which cannot be left by pivot_root. Both are here: TestInGuest boots
// this test in QEMU as the first process of an initramfs, and runs the tests whose
// names begin with TestGuest there.

const (
	guestDone = "GUEST DONE, EXIT STATUS "
	kernel    = "../out/vmlinuz-amd64" // made by `make image`
)

// guestPackages are packages in the guest.
var guestPackages = map[string]files{
	"web": {"usr/bin/web": "demo", "teeth-app.yaml": `
services: {web: {command: [/usr/bin/web, serve, /proc/self/mountinfo]}}
limits: {cpu: 0.5}
`},
	"eat": {"usr/bin/eat": "demo", "teeth-app.yaml": `
services: {eat: {command: [/usr/bin/eat, eat]}}
limits: {memory: 24MiB}
`},
	"tree": {"usr/bin/tree": "demo", "teeth-app.yaml": `
services: {tree: {command: [/usr/bin/tree, tree, "30"], stop_timeout: 100ms}}
limits: {pids: 20}
`},
}

func TestInGuest(t *testing.T) {
	if os.Getpid() == 1 { // this is the machine
		t.Run("Root", guestRoot)
		t.Run("Memory", guestMemory)
		t.Run("Processes", guestProcesses)
		return
	}
	need.Time(t, "boots a machine")
	qemu := need.Program(t, "qemu-system-x86_64", "qemu-system-x86")
	need.File(t, kernel, "none, make image builds it")
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", init, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var archive bytes.Buffer
	w := cpio.Newc.Writer(&archive)
	records := []cpio.Record{cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1), cpio.Directory("packages", 0o755),
		cpio.StaticFile("init", string(read(t, init)), 0o755), cpio.StaticFile("demo", string(read(t, demo)), 0o755)}
	for name, f := range guestPackages {
		records = append(records, cpio.StaticFile("packages/"+name, string(f.tar(t)), 0o644))
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-accel", "tcg", "-cpu", "max",
		"-m", "384M", "-smp", "2", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/init")
	out, err := cmd.CombinedOutput()
	_, status, _ := strings.Cut(string(out), guestDone)
	if err != nil || !strings.HasPrefix(status, "0") {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"Root", "Memory", "Processes"} {
		if !strings.Contains(string(out), "--- PASS: TestInGuest/"+name) {
			t.Errorf("%s has not run: %s", name, out)
		}
	}
}

// guest is the first process of the machine.
func guest(m *testing.M) {
	err := errors.Join(
		os.MkdirAll("/proc", 0o755), os.MkdirAll("/sys", 0o755), os.MkdirAll("/tmp", 0o777),
		unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
		unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""),
		unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "size=50%"),
		unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""),
		loopback(),
	)
	status := 1
	if err != nil {
		fmt.Println(err)
	} else {
		demo = "/demo"
		os.Args = []string{"/init", "-test.run=^TestInGuest$", "-test.v"}
		status = m.Run()
	}
	fmt.Println(guestDone+fmt.Sprint(status), ".")
	time.Sleep(100 * time.Millisecond)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

func guestSpec(t *testing.T, s *server, name string) Spec {
	return s.put(name, "1", read(t, "/packages/"+name))
}

// An app sees nothing of an initramfs it runs on, and keeps no mount of it.
func guestRoot(t *testing.T) {
	h, log := host(t, func(o *Options) { o.Memory = 64 << 20 })
	install(t, h, guestSpec(t, serve(t), "web"))
	eventually(t, "up", func() bool { return log.has("web: serving") })
	if !log.has(" - proc ") {
		t.Error("no /proc: ", log)
	}
	for line := range strings.SplitSeq(log.String(), `\n`) {
		device := len(strings.Fields(line)) > 3 && strings.Fields(line)[3] != "/"
		if strings.Contains(line, " - cgroup2 ") || strings.Contains(line, " - rootfs ") || strings.Contains(line, " - devtmpfs ") && !device {
			t.Error("mount of the machine: ", line)
		}
	}
	b, err := os.ReadFile("/sys/fs/cgroup/teeth-test-TestInGuest-Root/web/cpu.max")
	if err != nil || string(b) != "50000 100000\n" {
		t.Errorf("cpu.max: %q %v", b, err)
	}
	b, err = os.ReadFile("/sys/fs/cgroup/teeth-test-TestInGuest-Root/web/pids.max")
	if err != nil || string(b) != "512\n" {
		t.Errorf("pids.max: %q %v", b, err)
	}
	if err := h.Remove(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
}

// An app that takes more memory than it may is killed, and nothing else.
func guestMemory(t *testing.T) {
	h, log := host(t, nil)
	s := serve(t)
	install(t, h, guestSpec(t, s, "web"))
	err := h.Install(t.Context(), guestSpec(t, s, "eat"), nil)
	t.Log(err) // it may take a while to eat
	eventually(t, "out of memory", func() bool {
		return log.has("eat: service eat ended: out of memory: ended by SIGKILL; it is started again in 1s")
	})
	all, err := h.Installed(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v %v", all, err)
	}
	eat, web := all[0], all[1]
	if eat.ExitCode == nil || *eat.ExitCode != 137 || !strings.Contains(eat.Error, "service eat was out of memory: raise the app's limit") {
		t.Errorf("%+v", eat)
	}
	if !web.Running || web.Restarts != 0 {
		t.Errorf("%+v", web)
	}
}

// An app that starts more processes than it may gets an error.
func guestProcesses(t *testing.T) {
	h, log := host(t, nil)
	_ = h.Install(t.Context(), guestSpec(t, serve(t), "tree"), nil) // whether it survives that, is its own matter
	eventually(t, "no more", func() bool {
		return log.has("resource temporarily unavailable") || log.has("errno=11")
	})
}
