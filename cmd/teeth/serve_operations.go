package main

import (
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
)

func operationsFlags(f *pflag.FlagSet, c *controlplane.OperationsConfig) {
	f.StringVar(&c.Metrics, "metrics", "", "address where /metrics, /healthz and /readyz are answered over plain HTTP to anybody, as 127.0.0.1:9480 (default: only on the API's)")
	f.Float64Var(&c.Rate, "api-rate", 0, "requests per second to the API with one token; twice as many from one address; -1 is no limit (default 100)")
}
