// Package task runs the long work that commands ask for and tells how it goes:
// the state, the percentage and the time left of every task, as task_status has
// them. It is the only place that computes a time left.
//
// A task is known by the id the control plane gave it, and starting it is
// idempotent: the same command sent again joins the running task or repeats the
// final state, and never does the work a second time. This holds until the
// chassis reboots.
package task
