//go:build race

package backbone

const underRace = true
