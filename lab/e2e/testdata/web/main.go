// Command web is an app: it serves a page with its version and what its
// configuration has for a greeting.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
)

var version = "none" // set by the linker

var greeting = regexp.MustCompile(`(?m)^greeting *= *(.*)$`)

func main() {
	listen := flag.String("listen", "", "address")
	config := flag.String("config", "", "file, INI")
	flag.Parse()
	text := "no greeting"
	if b, err := os.ReadFile(*config); err == nil {
		if m := greeting.FindSubmatch(b); m != nil {
			text = string(m[1])
		}
	}
	fmt.Printf("web %s on %s says %s\n", version, *listen, text)
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s: %s", version, text) })
	if err := http.ListenAndServe(*listen, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
