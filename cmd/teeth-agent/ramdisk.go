//go:build ramdisk

package main

import (
	"flag"
	"fmt"
	"os"
)

// ordinary is the program when it is not process 1 of the ramdisk, where nobody needs
// the agent of an installed system: it only says its version.
func ordinary(args []string) int {
	f := flag.NewFlagSet("teeth-agent", flag.ContinueOnError)
	says := f.Bool("v", false, "say which version this is")
	if err := f.Parse(args); err != nil || !*says || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "teeth-agent: this one is process 1 of a ramdisk, and knows no other option than -v")
		return 2
	}
	fmt.Println(version)
	return 0
}
