package balance

import (
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/api/problem"
)

// LimitsUsage is what SetLimits takes, for people.
const LimitsUsage = "client-idle=DURATION, clients=N, connections=N or connection-idle=DURATION, several parted by commas"

// The most of what limits may be.
const (
	mostClients     = 1 << 22 // of an instance's set: about 400 MB of the kernel's
	mostConnections = 1 << 16
	longestIdle     = 30 * 24 * time.Hour
)

// SetLimits changes limits as text says, for instance connections=8192.
func (c *Config) SetLimits(text string) error {
	if text == "" {
		return nil
	}

	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")

		ok := false
		switch name {
		case "client-idle":
			c.ClientIdle, ok = duration(value)
		case "connection-idle":
			c.FlowIdle, ok = duration(value)
		case "clients":
			var n int
			n, ok = number(value, mostClients)
			c.MaxClients = uint32(n)
		case "connections":
			c.MaxFlows, ok = number(value, mostConnections)
		}

		if !ok {
			return problem.New(problem.Invalid, ruleBalancerLimit, "the limit %.80q", part).
				Want("%s; up to %d clients, %d connections, %s", LimitsUsage, mostClients, mostConnections, problem.Duration(longestIdle)).
				Fix("write it as in --balancer connections=8192,client-idle=1h")
		}
	}
	return nil
}

// number reads a limit between one and the most.
func number(text string, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= most
}

// duration reads a limit between a second and longestIdle.
func duration(text string) (time.Duration, bool) {
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= time.Second && d <= longestIdle
}
