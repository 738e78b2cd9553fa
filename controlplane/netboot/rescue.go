package netboot

import "strings"

// rescueImage has the shell that commands of Job.Linux.Commands need.
const rescueImage = "teeth-rescue-amd64.cpio.zst"

// withShell loads the rescue image on top, if it was built and the chassis is told
// to run commands. It returns the kernel's arguments, and more lines of the script.
func (s *server) withShell(base string, args []string) (all []string, lines string) {
	if !strings.Contains(strings.Join(args, " "), "teeth.rackhd=") || !s.dirs.Has(rescueImage) {
		return args, ""
	}
	return append([]string{args[0], "initrd=" + rescueImage}, args[1:]...), "initrd " + base + "/boot/" + rescueImage + "\n"
}
