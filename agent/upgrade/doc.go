// Package upgrade replaces the agent by a newer one: the program on an installed
// host, or kernel and initramfs of the ramdisk, by kexec.
//
// A version URL says what the newest version is, as the original's document has it:
//
//	{"latest_version": "1.3.0", "md5": "…", "download_url": "http://…/teeth-agent-1.3.0",
//	 "sha256": "…", "signature": "untrusted comment: …\n…", "size": 12345678}
//
// The URL may be plain HTTP: nothing it says is believed without the signature, which
// is minisign's (https://jedisct1.github.io/minisign/), over the file at download_url,
// by the key that the agent's configuration pins. Its trusted comment must name the
// version, as
//
//	version:1.3.0 kind:agent arch:amd64
//
// so that nobody can pass an old file off as a new one: an older version than the one
// that runs is refused unless forced. The kind is "agent" where it says none. An
// "image" is the description that `teeth initramfs build` writes beside kernel and
// initramfs (teeth-amd64.json): it has their digests, and they lie beside it.
//
// # On a host
//
// The folders are the original's: versions/teeth-agent-VERSION, and bin/teeth-agent,
// a symbolic link to one of them, in the same folder (/opt/teeth). The new program is
// fetched, verified, and asked to test itself (-t: connect and authenticate with the
// configuration of this host). Then the link is switched, in one step, and the new
// program is on trial: unless it has connected within [TrialTime], or if it is started
// more than [TrialStarts] times before it has, the link is switched back, and what ran
// before is started again.
package upgrade
