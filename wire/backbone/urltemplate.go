package backbone

import (
	"strings"
)

// Variables are what stands for the templates of a URL: the original writes them as
// Python's %-mapping.
type Variables struct {
	Host     string // %(host_relative_amqp_fqdn)s: the broker's host, as the slave reaches it
	Protocol string // %(download_protocol)s: http
	Port     string // %(download_port)s: 9080
}

const maxTemplate = 40 // bytes of its name

// ExpandURL replaces the templates in a URL. "%%" is one percent sign; any other
// percent sign is taken as it is, as in "%20".
func ExpandURL(raw string, v Variables) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(raw, "%")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(after, "%"):
			b.WriteByte('%')
			raw = after[1:]
		case strings.HasPrefix(after, "("):
			name, rest, ok := strings.Cut(after[1:], ")s")
			value := map[string]string{"host_relative_amqp_fqdn": v.Host, "download_protocol": v.Protocol, "download_port": v.Port}[name]
			if !ok || value == "" {
				name, _, _ = strings.Cut(name, ")")
				name = name[:min(len(name), maxTemplate)] // what follows may be a secret
				return "", invalidf("template %%(%s is not known: %%(host_relative_amqp_fqdn)s, %%(download_protocol)s and %%(download_port)s are", printable(name))
			}
			b.WriteString(value)
			raw = rest
		default:
			b.WriteByte('%')
			raw = after
		}
	}
}
