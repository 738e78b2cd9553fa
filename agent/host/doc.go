// Package host is the agent on an installed system: an ordinary program beside
// others, configured by a file, that sends logs and measurements to a StreamServer
// and carries out its commands. On a chassis that is being provisioned the agent is
// process 1 instead, see package agent; it is the same program.
//
// The file has the keys of the original agent's, and some of ours:
//
//	streamserver_host: logs.example.net   # or streamservers: [HOST:PORT, HOST:PORT]
//	streamserver_port: 6766
//	ca_sha256: 64 hex digits              # of the server's CA, as teeth serve prints it
//	insecure: true                        # instead: plain TCP, as originals speak it
//	group_id: web
//	group_key: SECRET                     # or group_key_file: PATH
//	server_id: UUID                       # default: that of the machine (SMBIOS)
//	server_name: web-1                    # for people
//	telemetry_interval: 60                # seconds
//	builtin_telemetries: [memory, load_avg, disk_usage, temperatures, network,
//	  {label: pick_files, arguments: [/var/spool/x, /var/spool/x/sent]}]
//	telemetries: [{name: users, command: "who | wc -l", interval: 300}]
//	tail_logs: [{service: syslog, file: /var/log/syslog}]
//	upgrade: http://teeth:8082/api/v1/minion
//	upgrade_key: RW…                      # minisign's public key; without it no upgrade
//	commands: {allow: ["systemctl status *", "df ..."], internal: [status, version]}
//	spool: /var/lib/teeth-agent           # what is kept until the server has it
//	spool_size: 1GiB
//	log: info
//
// Without commands the policy is that of package command: everything for a server
// that has proved itself over TLS, internal status and version for others.
//
// A policy that restricts programs (allow, off) also keeps set-config from what would
// get around it: it then changes server_name, telemetry_interval, spool_size and log.
package host
