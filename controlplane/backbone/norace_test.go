//go:build !race

package backbone

const underRace = false
