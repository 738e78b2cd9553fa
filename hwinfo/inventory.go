package hwinfo

import "github.com/teeth-metal/teeth/blockdev"

// Inventory is what a machine is made of. Lists are in a stable order, so that
// two inventories of an unchanged machine are equal. Texts that hardware reports
// are printable and bounded, and empty where a vendor left a placeholder.
type Inventory struct {
	System   System          `json:"system"`
	Board    Board           `json:"board"`
	Chassis  Chassis         `json:"chassis"`
	BIOS     BIOS            `json:"bios"`
	CPUs     []CPU           `json:"cpus"`
	Memory   Memory          `json:"memory"`
	Disks    []blockdev.Info `json:"disks"`
	NICs     []NIC           `json:"nics"`
	Firmware []Firmware      `json:"firmware"`
	BMC      BMC             `json:"bmc"`
	TPM      TPM             `json:"tpm"`
	// Warnings are what could not be read. What they are about is missing above.
	Warnings []string `json:"warnings,omitempty"`
}

// System is SMBIOS type 1, or on a machine without it the device tree.
type System struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Version      string `json:"version,omitempty"`
	Serial       string `json:"serial,omitempty"`
	UUID         string `json:"uuid,omitempty"` // lower case
	SKU          string `json:"sku,omitempty"`
}

// Board is SMBIOS type 2, the main board.
type Board struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Version      string `json:"version,omitempty"`
	Serial       string `json:"serial,omitempty"`
}

// Chassis is SMBIOS type 3, the enclosure.
type Chassis struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Version      string `json:"version,omitempty"`
	Serial       string `json:"serial,omitempty"`
	AssetTag     string `json:"asset_tag,omitempty"`
	// Type is the enclosure's number in DSP0134, 7.4.1: 17 is a main server
	// chassis, 23 a rack mount chassis, 28 a blade.
	Type int `json:"type,omitempty"`
}

// BIOS is SMBIOS type 0.
type BIOS struct {
	Vendor  string `json:"vendor,omitempty"`
	Version string `json:"version,omitempty"`
	Date    string `json:"date,omitempty"` // as the vendor writes it, mostly MM/DD/YYYY
}

// CPU is all processors of one model.
type CPU struct {
	Vendor   string   `json:"vendor,omitempty"`
	Model    string   `json:"model,omitempty"`
	Sockets  int      `json:"sockets"`
	Cores    int      `json:"cores"`   // of all sockets
	Threads  int      `json:"threads"` // of all sockets
	Features []string `json:"features,omitempty"`
}

// Memory is the main memory.
type Memory struct {
	// TotalBytes is what is installed: the sum of DIMMs, else what the kernel was
	// given. UsableBytes is what the kernel can use, and less.
	TotalBytes  int64  `json:"total_bytes"`
	UsableBytes int64  `json:"usable_bytes"`
	DIMMs       []DIMM `json:"dimms"`
}

// DIMM is SMBIOS type 17, a memory module. Empty slots are left out.
type DIMM struct {
	Locator      string `json:"locator,omitempty"` // e.g. "DIMM_A1"
	Bank         string `json:"bank,omitempty"`
	SizeBytes    int64  `json:"size_bytes"`
	Type         string `json:"type,omitempty"`      // e.g. "DDR5"
	SpeedMTs     int    `json:"speed_mts,omitempty"` // what it can do, in megatransfers a second
	RunningMTs   int    `json:"running_mts,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Part         string `json:"part,omitempty"`
	Serial       string `json:"serial,omitempty"`
}

// NIC is a physical network interface.
type NIC struct {
	Name string `json:"name"`
	// MAC is the permanent address, whatever a bond made of it.
	MAC string `json:"mac,omitempty"`
	// SpeedMbps is the speed of the link, 0 without one; MaxSpeedMbps the highest
	// the port can do, 0 when its driver does not tell.
	SpeedMbps    int    `json:"speed_mbps"`
	MaxSpeedMbps int    `json:"max_speed_mbps,omitempty"`
	Carrier      bool   `json:"carrier"`
	Driver       string `json:"driver,omitempty"`
	PCIAddress   string `json:"pci_address,omitempty"` // e.g. "0000:3b:00.0"
	VendorID     string `json:"vendor_id,omitempty"`   // PCI, four hexadecimal digits
	DeviceID     string `json:"device_id,omitempty"`
	Firmware     string `json:"firmware,omitempty"`
}

// Components of Firmware.
const (
	ComponentBIOS = "bios"
	ComponentBMC  = "bmc"
	ComponentNVMe = "nvme"
	ComponentDisk = "disk" // any but NVMe
	ComponentNIC  = "nic"
)

// Firmware is the version of one piece of firmware.
type Firmware struct {
	Component string `json:"component"`
	// Model is the BIOS vendor and product, the disk's model, for a NIC the
	// driver and PCI id ("ice 8086:1592"), for a BMC its manufacturer and product
	// numbers.
	Model   string `json:"model,omitempty"`
	Version string `json:"version"`
	// Path is where it is: a device node, network interface or PCI address.
	Path string `json:"path,omitempty"`
}

// BMC is the management controller. The address is that of its first LAN
// channel.
type BMC struct {
	Present      bool   `json:"present"`
	Firmware     string `json:"firmware,omitempty"`     // e.g. "2.07"
	IPMIVersion  string `json:"ipmi_version,omitempty"` // e.g. "2.0"
	Manufacturer int    `json:"manufacturer,omitempty"` // IANA enterprise number
	Product      int    `json:"product,omitempty"`
	MAC          string `json:"mac,omitempty"`
	IP           string `json:"ip,omitempty"`
}

// TPM is the trusted platform module.
type TPM struct {
	Present bool   `json:"present"`
	Version string `json:"version,omitempty"` // "1.2" or "2.0"
}
