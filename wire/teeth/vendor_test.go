package teeth

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

var testPin = strings.Repeat("0123456789abcdef", 4)

func TestVendorOptions(t *testing.T) {
	whole := VendorOptions{Servers: []string{"192.0.2.1:8081", "[2001:db8::1]:8081"}, CASHA256: testPin, Token: "secret"}
	b, err := whole.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in   []byte
		want VendorOptions
	}{
		"whole":            {b, whole},
		"padding, end":     {append([]byte{0, 0}, append(bytes.Clone(b), 255, 1, 1, 'x')...), whole},
		"cut":              {b[:len(b)-1], VendorOptions{Servers: whole.Servers, CASHA256: testPin}},
		"PXE server's own": {[]byte{1, 4, 239, 255, 0, 1, 6, 1, 8}, VendorOptions{}},
		"pin too short":    {append([]byte{2, 4}, "abcd"...), VendorOptions{}},
		"pin not hex":      {append([]byte{2, 64}, strings.Repeat("x", 64)...), VendorOptions{}},
		"token and NUL":    {append([]byte{3, 4}, "abc\x00"...), VendorOptions{Token: "abc"}},
		"token with space": {append([]byte{3, 3}, "a b"...), VendorOptions{}},
		"empty":            {nil, VendorOptions{}},
		"half a header":    {[]byte{1}, VendorOptions{}},
	} {
		if got := ParseVendorOptions(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if _, err := (VendorOptions{Token: strings.Repeat("x", 256)}).Marshal(); err == nil {
		t.Error("a sub-option of 256 bytes was accepted")
	}
}

func FuzzVendorOptions(f *testing.F) {
	b, _ := VendorOptions{Servers: []string{"a:1", "b:2"}, CASHA256: testPin, Token: "t"}.Marshal()
	f.Add(b)
	f.Add([]byte{0, 1, 3, 'a', ',', 'b', 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		v := ParseVendorOptions(b)
		if len(strings.Join(v.Servers, ",")) > maxVendorText {
			return // repeated padding cannot make a text longer, but be sure not to loop
		}
		again, err := v.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got := ParseVendorOptions(again); !reflect.DeepEqual(got, v) {
			t.Fatalf("%+v became %+v", v, got)
		}
	})
}
