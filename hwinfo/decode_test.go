package hwinfo

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
)

func TestMeaningful(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"SN0042":                 "SN0042",
		"To Be Filled By O.E.M.": "",
		"Default string":         "",
		"0000000000":             "",
		"........":               "",
		"xxxxxxx":                "",
		"0":                      "0", // a board version
		"1111111":                "1111111",
		"00000001":               "00000001",
		"None such":              "None such",
	} {
		if got := meaningful(in); got != want {
			t.Errorf("meaningful(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestUUID(t *testing.T) {
	for in, want := range map[string]string{
		"4C4C4544-0042-3510-8052-B4C04F4A3132": "4c4c4544-0042-3510-8052-b4c04f4a3132",
		"00000000-0000-0000-0000-000000000000": "",
		"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF": "",
		"":                                     "",
	} {
		if got := uuid(in); got != want {
			t.Errorf("uuid(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseSMBIOS(t *testing.T) {
	dimms, ipmi, err := parseSMBIOS(serverSMBIOS())
	if err != nil || !ipmi || len(dimms) != 2 {
		t.Fatalf("%+v, %v, %v", dimms, ipmi, err)
	}
	want := DIMM{
		Locator: "DIMM_A1", Bank: "NODE 1", SizeBytes: 32 << 30, Type: "DDR4", SpeedMTs: 3200, RunningMTs: 2933,
		Manufacturer: "Samsung", Part: "M393A4K40DB3-CWE", Serial: "1234ABCD",
	}
	if dimms[0] != want {
		t.Errorf("got %+v, want %+v", dimms[0], want)
	}
	if d := dimms[1]; d.SizeBytes != 16<<30 || d.Serial != "" || d.SpeedMTs != 0 || d.Type != "DDR5" {
		t.Errorf("got %+v", d)
	}
	// What came before the damage is kept.
	all := serverSMBIOS()
	dimms, _, err = parseSMBIOS(all[:150])
	if err == nil || len(dimms) != 1 {
		t.Errorf("cut off: %+v, %v", dimms, err)
	}
	if _, _, err := parseSMBIOS([]byte(strings.Repeat(string(memoryDevice(1, 0, 2, 0, 0)), maxDIMMs+1))); err == nil {
		t.Error("any number of memory devices is taken")
	}
}

func FuzzParseSMBIOS(f *testing.F) {
	f.Add(serverSMBIOS())
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte{17, 255, 0, 0, 0, 0})
	f.Add(memoryDevice(0x8001, 0, 1, 0, 0, "\x1b[2J"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dimms, _, err := parseSMBIOS(b)
		if len(dimms) > len(b) {
			t.Errorf("%d modules from %d bytes: %v", len(dimms), len(b), err)
		}
		for _, d := range dimms {
			if d.SizeBytes <= 0 || blockdev.Printable(d.Part) != d.Part || blockdev.Printable(d.Locator) != d.Locator {
				t.Errorf("%+v", d)
			}
		}
	})
}

func TestDecodeDeviceID(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want BMC
	}{
		// Answers of QEMU's ipmi-bmc-sim and of a server with AST2500.
		{"qemu", []byte{0x20, 0, 0, 0, 0x02, 0x9f, 0, 0, 0, 0, 0, 0, 0, 0, 0}, BMC{Firmware: "0.00", IPMIVersion: "2.0"}},
		{"server", []byte{0x20, 0x01, 0x82, 0x17, 0x02, 0xbf, 0x7c, 0x2a, 0x00, 0x1b, 0x09}, BMC{Firmware: "2.17", IPMIVersion: "2.0", Manufacturer: 10876, Product: 2331}},
		{"IPMI 1.5", []byte{0, 0, 1, 0x09, 0x51, 0, 0xff, 0xff, 0xff, 0, 0}, BMC{Firmware: "1.09", IPMIVersion: "1.5", Manufacturer: 0xfffff}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got BMC
			if err := got.decodeDeviceID(tt.in); err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
			for n := range 11 {
				if err := new(BMC).decodeDeviceID(tt.in[:n]); err == nil {
					t.Errorf("%d bytes are enough", n)
				}
			}
		})
	}
}

func TestDecodeLAN(t *testing.T) {
	if got := decodeLANAddress([]byte{0x11, 10, 0, 0, 7}); got != "10.0.0.7" {
		t.Errorf("address %q", got)
	}
	if got := decodeLANMAC([]byte{0x11, 0x3c, 0xec, 0xef, 1, 2, 3}); got != "3c:ec:ef:01:02:03" {
		t.Errorf("MAC %q", got)
	}
	for _, b := range [][]byte{nil, {0x11}, {0x11, 0, 0, 0, 0}, {0x11, 0, 0, 0, 0, 0, 0}} {
		if a, m := decodeLANAddress(b), decodeLANMAC(b); a != "" || m != "" {
			t.Errorf("%v: %q, %q", b, a, m)
		}
	}
}

func TestMaxLinkMode(t *testing.T) {
	bitmap := func(words int, bits ...int) []byte {
		b := make([]byte, 4*words)
		for _, n := range bits {
			w := b[n/32*4:]
			binary.NativeEndian.PutUint32(w, binary.NativeEndian.Uint32(w)|1<<(n%32))
		}
		return b
	}
	tests := []struct {
		name string
		in   []byte
		want int
	}{
		{"nothing", nil, 0},
		{"virtio says nothing", bitmap(3), 0},
		{"no speed: autonegotiation, ports, pause, FEC", bitmap(3, 6, 7, 8, 9, 10, 11, 13, 14, 16, 49, 50, 51, 74), 0},
		{"e1000e", bitmap(3, 0, 1, 2, 3, 5, 6, 7), 1000},
		{"25G", bitmap(3, 31, 33, 41, 43), 25000},
		{"100G in the second word", bitmap(3, 12, 36), 100000},
		{"an old kernel with one word", bitmap(1, 12), 10000},
		{"800G", bitmap(4, 36, 97), 800000},
		{"unknown newer bits", bitmap(4, 5, 127), 1000},
	}
	for _, tt := range tests {
		if got := maxLinkMode(tt.in); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestDecodePermAddr(t *testing.T) {
	b := make([]byte, 40)
	binary.NativeEndian.PutUint32(b[4:], 6)
	if mac := decodePermAddr(b); mac != nil { // a driver without one leaves zeros
		t.Errorf("zeros are an address: %v", mac)
	}
	copy(b[8:], []byte{0x52, 0x54, 0, 1, 2, 3})
	if mac := decodePermAddr(b); mac.String() != "52:54:00:01:02:03" {
		t.Errorf("got %v", mac)
	}
	binary.NativeEndian.PutUint32(b[4:], 1<<31)
	if mac := decodePermAddr(b); mac != nil {
		t.Errorf("any length is taken: %v", mac)
	}
}
