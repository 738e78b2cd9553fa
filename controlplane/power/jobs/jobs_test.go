package jobs

import (
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/power"
)

func TestOptions(t *testing.T) {
	checks := map[string]func(string) error{}
	for _, j := range All(nil, nil) {
		checks[j.Name] = func(options string) error { return j.Check([]byte(options)) }
	}
	for _, c := range []struct {
		job, options, wrong string // part of the error, "" for none
	}{
		{Power, `{"action":"cycle"}`, ""},
		{Power, `{"action":"soft"}`, ""},
		{Power, `{"action":"status"}`, ""},
		{Power, `{"action":"explode"}`, "write one of"},
		{Power, `{}`, "write one of"},
		{Power, `{"action":"on","acton":1}`, "acton"},
		{BootDevice, `{"device":"http","persistent":true}`, ""},
		{BootDevice, `{"device":"tape"}`, "write one of"},
		{BootDevice, `{"device":"pxe","uefi":"yes"}`, "uefi"},
		{BootRamdisk, ``, ""},
		{BootRamdisk, `{"force":true,"device":"http"}`, ""},
		{BootRamdisk, `{"device":"disk"}`, "write pxe or http"},
		{BootRamdisk, `{"forced":true}`, "forced"},
	} {
		err := checks[c.job](c.options)
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s %s: %v, want %q", c.job, c.options, err, c.wrong)
		}
	}
	if a, err := powerOptions([]byte(`{"action":"soft"}`)); err != nil || a != power.Shutdown {
		t.Errorf("soft: %s %v", a, err)
	}
}
