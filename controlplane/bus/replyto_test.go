package bus

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestSendable(t *testing.T) {
	address := func(process string) string {
		return directReply + "." + base64.StdEncoding.EncodeToString([]byte(process)) + ".a2V5"
	}
	for replyTo, want := range map[string]bool{
		"": true, "a queue": true, directReply: true, directReply + ".nobody": true,
		address("\x83Xw\x03r@1" + strings.Repeat("n", 12)):     true,
		address("\x83gd\x00\x03r@1" + strings.Repeat("n", 9)):  true,
		address("\x83Xv\x00\x03r@1" + strings.Repeat("n", 12)): true,
		address("\x83Xw\x03r@1" + strings.Repeat("n", 11)):     false,
		address("\x83gw\x03r@1" + strings.Repeat("n", 12)):     false,
		address("\x83Xw\xffr@1"):                               false,
		address("\x83j"):                                       false,
		address(""):                                            false,
		directReply + ".!.a2V5":                                false,
		directReply + ".a2V5.!":                                false,
	} {
		if got := sendable(replyTo); got != want {
			t.Errorf("sendable(%q) = %v", replyTo, got)
		}
	}
}
