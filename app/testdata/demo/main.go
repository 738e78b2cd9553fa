// Command demo is what packages of tests have in them: a service, and a config program
// in the manner of Backbone's apps when it is started as config.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const stored = "/var/demo.json"

func main() {
	if filepath.Base(os.Args[0]) == "config" {
		config()
		return
	}
	switch os.Args[1] {
	case "serve": // with what it reads of a file
		b, err := os.ReadFile(os.Args[2])
		fmt.Printf("serving %s: %q %v\n", version, b, err)
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGHUP)
		for s := range c {
			if s == syscall.SIGHUP {
				b, _ := os.ReadFile(os.Args[2])
				fmt.Printf("reloaded: %q\n", b)
				continue
			}
			fmt.Println("stopping")
			return
		}
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "eat": // memory
		var all [][]byte
		for i := 0; ; i++ {
			b := make([]byte, 1<<20)
			for j := 0; j < len(b); j += 4096 {
				b[j] = byte(i)
			}
			all = append(all, b)
			_ = all
		}
	case "tree": // processes that do not want to end
		signal.Ignore(syscall.SIGTERM)
		if n, _ := strconv.Atoi(os.Args[2]); n > 0 {
			p, err := os.StartProcess("/proc/self/exe", []string{"demo", "tree", strconv.Itoa(n - 1)}, &os.ProcAttr{
				Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
			})
			fmt.Println("child", p != nil, err)
		}
		time.Sleep(time.Hour)
	}
}

var version = "1"

func config() {
	switch os.Args[1] {
	case "--get-services":
		fmt.Println("demo-api demo-worker")
	case "--set-config":
		if err := os.MkdirAll(filepath.Dir(stored), 0o755); err != nil {
			panic(err)
		}
		if err := os.WriteFile(stored, []byte(os.Args[2]), 0o644); err != nil {
			panic(err)
		}
	case "--get-config":
		b, err := os.ReadFile(stored)
		if err != nil {
			b = []byte("{}")
		}
		os.Stdout.Write(b)
	}
}
