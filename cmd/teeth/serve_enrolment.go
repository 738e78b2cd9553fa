package main

import (
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/store"
)

func enrolmentFlags(f *pflag.FlagSet, c *controlplane.EnrolmentConfig) {
	f.Var((*ruleFlags)(&c.AutoApprove), "auto-approve", "approve new chassis by rule while this process runs: "+ruleForms+" (repeatable)")
}

const ruleForms = "all, token (what our network boot started), subnet=CIDR, serial=PATTERN or mac=ADDRESS"

// ruleFlags are enrolment rules of the command line.
type ruleFlags []store.Rule

func (r *ruleFlags) String() string { return "" }
func (r *ruleFlags) Type() string   { return "RULE" }
func (r *ruleFlags) Set(text string) error {
	rule, err := store.ParseRule(text)
	if err == nil {
		*r = append(*r, rule)
	}
	return err
}
