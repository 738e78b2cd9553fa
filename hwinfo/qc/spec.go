package qc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo/firmware"
)

// Spec is what a machine should be made of. Zero fields demand nothing.
type Spec struct {
	System   *System           `json:"system,omitempty"`
	CPU      *CPU              `json:"cpu,omitempty"`
	Memory   *Memory           `json:"memory,omitempty"`
	Disks    []Disk            `json:"disks,omitempty"`
	NICs     []NIC             `json:"nics,omitempty"`
	Firmware []firmware.Wanted `json:"firmware,omitempty"`
	TPM      *TPM              `json:"tpm,omitempty"`
	BMC      *BMC              `json:"bmc,omitempty"`
	// Exact makes disks that no entry of Disks accounts for a difference, and
	// network interfaces likewise; it says nothing about a list without entries.
	Exact bool `json:"exact,omitempty"`
}

// System demands a make of machine.
type System struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	SKU          string `json:"sku,omitempty"`
}

// CPU demands processors. The figures are of all sockets with that model
// together.
type CPU struct {
	Model      string   `json:"model,omitempty"`
	MinSockets int      `json:"min_sockets,omitempty"`
	MinCores   int      `json:"min_cores,omitempty"`
	MinThreads int      `json:"min_threads,omitempty"`
	Features   []string `json:"features,omitempty"` // as in /proc/cpuinfo, e.g. "vmx"
}

// Memory demands main memory. MinBytes is of what is installed. DIMMs is how many
// modules there must be, no more and no less, each of DIMMBytes.
type Memory struct {
	MinBytes  int64  `json:"min_bytes,omitempty"`
	DIMMs     int    `json:"dimms,omitempty"`
	DIMMBytes int64  `json:"dimm_bytes,omitempty"`
	DIMMType  string `json:"dimm_type,omitempty"` // e.g. "DDR5"
}

// Disk demands Count disks (0 is one) of some kind.
type Disk struct {
	Count      int                `json:"count,omitempty"`
	MinSize    int64              `json:"min_size,omitempty"` // bytes
	MaxSize    int64              `json:"max_size,omitempty"` // bytes; 0 is any
	Model      string             `json:"model,omitempty"`
	Transport  blockdev.Transport `json:"transport,omitempty"`
	Rotational *bool              `json:"rotational,omitempty"`
}

// NIC demands Count network interfaces (0 is one) of some kind. MinSpeedMbps is
// of what the port can do, with or without a link; Carrier demands one.
type NIC struct {
	Count        int    `json:"count,omitempty"`
	MinSpeedMbps int    `json:"min_speed_mbps,omitempty"`
	Driver       string `json:"driver,omitempty"`
	Carrier      bool   `json:"carrier,omitempty"`
}

// TPM demands a trusted platform module, or that there is none.
type TPM struct {
	Present bool   `json:"present"`
	Version string `json:"version,omitempty"` // "1.2" or "2.0"
}

// BMC demands a management controller, or that there is none.
type BMC struct {
	Present bool `json:"present"`
}

// Bounds of a Spec, far beyond any machine.
const (
	maxSpec    = 256 << 10 // bytes of JSON
	maxEntries = 256       // of a list
	maxCount   = 4096
)

// Parse reads a Spec, strictly: a key it does not know is an error, so that a
// misspelt demand is not one that always holds.
func Parse(b []byte) (*Spec, error) {
	if len(b) > maxSpec {
		return nil, fmt.Errorf("spec: %d bytes long, at most %d are allowed", len(b), maxSpec)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var s *Spec
	if err := d.Decode(&s); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("spec: empty; {} is a spec that demands nothing")
		}
		return nil, fmt.Errorf("spec: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("spec: more than one JSON value")
	}
	if s == nil {
		return nil, errors.New("spec: null is none; {} is a spec that demands nothing")
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	return s, nil
}

func (s *Spec) validate() error {
	for field, n := range map[string]int{"disks": len(s.Disks), "nics": len(s.NICs), "firmware": len(s.Firmware)} {
		if n > maxEntries {
			return fmt.Errorf("%s: %d entries, at most %d are allowed", field, n, maxEntries)
		}
	}
	if c := s.CPU; c != nil {
		if c.MinSockets < 0 || c.MinCores < 0 || c.MinThreads < 0 {
			return errors.New("cpu: a number is negative")
		}
		if len(c.Features) > maxEntries {
			return fmt.Errorf("cpu.features: %d entries, at most %d are allowed", len(c.Features), maxEntries)
		}
	}
	if m := s.Memory; m != nil && (m.MinBytes < 0 || m.DIMMs < 0 || m.DIMMBytes < 0) {
		return errors.New("memory: a number is negative")
	}
	disks := 0
	for i, d := range s.Disks {
		switch {
		case d.Count < 0 || d.MinSize < 0 || d.MaxSize < 0:
			return fmt.Errorf("disks[%d]: a number is negative", i)
		case d.MaxSize != 0 && d.MaxSize < d.MinSize:
			return fmt.Errorf("disks[%d]: max_size %d is less than min_size %d", i, d.MaxSize, d.MinSize)
		case !knownTransport(d.Transport):
			return fmt.Errorf("disks[%d]: unknown transport %q", i, d.Transport)
		}
		if disks += count(d.Count); disks > maxCount || d.Count > maxCount {
			return fmt.Errorf("disks: more than %d are demanded", maxCount)
		}
	}
	nics := 0
	for i, n := range s.NICs {
		if n.Count < 0 || n.MinSpeedMbps < 0 {
			return fmt.Errorf("nics[%d]: a number is negative", i)
		}
		if nics += count(n.Count); nics > maxCount || n.Count > maxCount {
			return fmt.Errorf("nics: more than %d are demanded", maxCount)
		}
	}
	for i, f := range s.Firmware {
		if err := f.Validate(); err != nil {
			return fmt.Errorf("firmware[%d]: %w", i, err)
		}
	}
	if t := s.TPM; t != nil {
		switch {
		case t.Version != "" && t.Version != "1.2" && t.Version != "2.0":
			return fmt.Errorf("tpm: unknown version %q, use 1.2 or 2.0", t.Version)
		case t.Version != "" && !t.Present:
			return errors.New("tpm: a version is given for a TPM that must not be present")
		}
	}
	return nil
}

func knownTransport(t blockdev.Transport) bool {
	switch t {
	case "", blockdev.NVMe, blockdev.SATA, blockdev.SAS, blockdev.SCSI, blockdev.USB, blockdev.Virtio, blockdev.MMC,
		blockdev.NVMeoF, blockdev.ISCSI, blockdev.FC, blockdev.Other:
		return true
	}
	return false
}

// count is how many an entry demands.
func count(n int) int { return max(n, 1) }
