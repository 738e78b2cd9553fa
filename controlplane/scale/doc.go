// Package scale has no code but its tests: a control plane in a process of its own,
// and thousands of agents that speak the native protocol over TLS to it. `make
// bench` prints what they measure, `go test` runs them with a few hundred.
package scale
