package dhcp

import (
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// An answer goes where the relay agent's address says, which anybody can write.
func TestRelayThatIsNoHost(t *testing.T) {
	s := server(t)
	link := dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.LinkSelectionSubOption, []byte{198, 51, 100, 0})))
	for giaddr, want := range map[string]dhcpv4.MessageType{
		"198.51.100.1": dhcpv4.MessageTypeOffer, "203.0.113.1": dhcpv4.MessageTypeOffer, // RFC 3527: of another network
		"255.255.255.255": dhcpv4.MessageTypeNone, "239.0.0.1": dhcpv4.MessageTypeNone, "127.0.0.1": dhcpv4.MessageTypeNone, "0.0.0.7": dhcpv4.MessageTypeNone,
	} {
		ask(t, s, local, message(t, mac1, dhcpv4.MessageTypeDiscover, dhcpv4.WithRelay(net.ParseIP(giaddr)), link), want)
	}
}
