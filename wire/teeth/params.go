package teeth

import "encoding/json"

// Methods of the protocol. The document spells the last group "standbye", the
// original agent "standby"; Canonical and Legacy convert.
const (
	MethodHandshake      = "handshake" // agent to server, first line of a session
	MethodPing           = "ping"      // both ways; params are echoed as result
	MethodLog            = "log"       // agent to server
	MethodTaskStatus     = "task_status"
	MethodCertificate    = "certificate" // agent to server; ours, not in the document
	MethodRecords        = "records"     // agent to server; ours, not in the document
	MethodStatus         = "status"      // server to agent
	MethodTaskCancel     = "task_cancel" // server to agent; ours, not in the document
	MethodDiskErase      = "decom.disk_erase"
	MethodFirmwareSecure = "decom.firmware_secure"
	MethodQC             = "decom.qc"
	MethodCacheImages    = "standbye.cache_images"
	MethodPrepareImage   = "standbye.prepare_image"
	MethodRunImage       = "standbye.run_image"
	MethodReboot         = "reboot" // server to agent; ours, not in the document

	// Backbone without a broker; ours, not in the document. The server may send them
	// to an agent whose handshake says Apps.
	MethodAppConfig = "app_config" // server to agent: AppParams, as Backbone's set_config
	MethodAppPing   = "app_ping"   // server to agent: asks for an app_status
	MethodAppStatus = "app_status" // agent to server: AppParams, as Backbone's status
)

// LegacyVersion is the software version the original agent sends in its
// handshake. It knows only ping's direction from agent to server, status and
// standby.*, and ends the session on any other method.
const LegacyVersion = "0.1-dev"

// State is a task's state in a task_status.
type State string

// The three states of the document. Nothing follows Error or Complete.
const (
	Running  State = "running"
	Failed   State = "error"
	Complete State = "complete"
)

// Final reports whether no more updates follow s.
func (s State) Final() bool { return s == Failed || s == Complete }

// Handshake is what the agent says of itself. The original sends only ID and
// Version.
type Handshake struct {
	ID      string   `json:"id"`      // MAC address of the NIC it booted from
	Version string   `json:"version"` // software version, not that of the protocol
	UUID    string   `json:"uuid,omitempty"`
	Serial  string   `json:"serial,omitempty"`
	MACs    []string `json:"macs,omitempty"`
	BootID  string   `json:"boot_id,omitempty"` // differs after every boot
	Token   string   `json:"token,omitempty"`
	// Endpoint is the host:port under which the agent reached the server, which
	// the server behind address translation cannot know.
	Endpoint string `json:"endpoint,omitempty"`
	// Apps says that the agent keeps apps and knows app_config and app_ping.
	Apps bool `json:"apps,omitempty"`
	// Records says that the agent's log is among its records (package wire/minion):
	// what it sends as log messages are events, and no records of their own.
	Records bool `json:"records,omitempty"`
}

// HandshakeResult is the server's answer; a peer may answer anything.
type HandshakeResult struct {
	Chassis string `json:"chassis,omitempty"` // the control plane's id of this chassis
	Version string `json:"version,omitempty"` // the server's software version
	// Certificates says that the server knows the certificate command.
	Certificates bool `json:"certificates,omitempty"`
	// NodeCapability opens the chassis' commands in RackHD's tasks API, where the
	// server has one, until the chassis boots again. It is a secret.
	NodeCapability string `json:"node_capability,omitempty"`
	// Minion is the StreamServer that takes this chassis' records; nil: there is none.
	Minion *MinionServer `json:"minion,omitempty"`
	// Apps says that the server takes app_status.
	Apps bool `json:"apps,omitempty"`
	// Backbone is the broker over which apps are configured; nil: over the session.
	Backbone *BackboneBroker `json:"backbone,omitempty"`
}

// BackboneBroker is where a Backbone slave finds its master. The URL is a secret,
// as it holds a password.
type BackboneBroker struct {
	URL      string `json:"url"`                 // amqp[s]://user:password@host:port/vhost
	CASHA256 string `json:"ca_sha256,omitempty"` // of amqps: the pin of its CA; "": the CA of the session
}

// AppParams carries the data of Backbone's set_config (app_config) or status
// (app_status), as package wire/backbone has them.
type AppParams struct {
	Data     json.RawMessage `json:"data"`
	Revision int64           `json:"revision,omitempty"` // of app_config: beside set_config's opcode on a broker
}

// MinionServer is where and as whom an agent reaches a StreamServer (package
// wire/minion). The server has the control plane's certificate, whose authority is
// pinned as for a session, or with Insecure plain TCP.
type MinionServer struct {
	Addresses []string `json:"addresses"` // host:port
	Group     string   `json:"group"`
	ID        string   `json:"id"`
	Key       string   `json:"key"` // a secret
	Insecure  bool     `json:"insecure,omitempty"`
}

// RecordsParams of records: frames of wire/minion (logs, telemetry, responses), each
// with its length before it, which cannot be sent to a StreamServer. They are
// answered when they are kept durably; the same ones may be sent again.
type RecordsParams struct {
	Frames []byte `json:"frames"`
}

// CertificateParams of certificate: a request (PKCS #10, DER) for a client
// certificate, signed with a key that never leaves the agent's memory.
type CertificateParams struct {
	CSR []byte `json:"csr"`
}

// CertificateResult is the certificate (X.509, DER) and in how many seconds the
// agent is to ask for the next one.
type CertificateResult struct {
	Certificate []byte  `json:"certificate"`
	Renew       float64 `json:"renew,omitempty"`
}

// Log is a structured message from the agent. Fields become keys beside
// message and time, as the original sends them.
type Log struct {
	Message string
	Time    float64 // seconds since 1970
	Fields  map[string]any
}

// TaskStatus is an update on a task. ETA and Percent go with Running, Msg with
// Failed; ETA is left out while nothing is known of it. Result and Seq are ours:
// what the task produced, and a number that grows with every update of a task
// within one boot of the agent, so that a repeated one is known as such.
type TaskStatus struct {
	TaskID  string          `json:"task_id"`
	State   State           `json:"state"`
	ETA     *float64        `json:"eta,omitempty"`     // seconds left
	Percent *float64        `json:"percent,omitempty"` // 0 to 100
	Msg     string          `json:"msg,omitempty"`
	Step    string          `json:"step,omitempty"` // what it is doing now, for people
	Result  json.RawMessage `json:"result,omitempty"`
	Seq     uint64          `json:"seq,omitempty"`
}

// StatusParams asks for more than the document's fields.
type StatusParams struct {
	Inventory bool `json:"inventory,omitempty"`
}

// Status is the answer to the status command: the document's three fields, and
// ours.
type Status struct {
	Mode      string          `json:"mode"`
	Uptime    float64         `json:"uptime"` // seconds
	Version   string          `json:"version"`
	BootID    string          `json:"boot_id,omitempty"`
	Phases    []Phase         `json:"phases,omitempty"`
	Tasks     []TaskStatus    `json:"tasks,omitempty"` // running, and finished ones not yet acknowledged
	Inventory json.RawMessage `json:"inventory,omitempty"`
}

// Phase is one named step of a boot.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Disk names a disk by what does not change between boots. Empty fields are
// not compared; at least one must be set.
type Disk struct {
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Size   int64  `json:"size,omitempty"` // bytes
}

// TaskParams is what every command that starts a task carries.
type TaskParams struct {
	TaskID string `json:"task_id"`
}

// DiskEraseParams of decom.disk_erase. Without Disks every attached disk is
// erased; with Disks exactly those, and a disk that is not there is an error, as
// is an empty list.
type DiskEraseParams struct {
	TaskID string `json:"task_id"`
	Disks  []Disk `json:"disks,omitempty"`
	Method string `json:"method,omitempty"` // "auto" (default), "zeroout", "overwrite"
	Verify string `json:"verify,omitempty"` // "full" (default), "sample"
}

// FirmwareItem is one wanted version. Component is "bios", "bmc", "nvme", "disk" or
// "nic"; Model narrows it to devices whose model contains it.
type FirmwareItem struct {
	Component string `json:"component"`
	Model     string `json:"model,omitempty"`
	Minimum   string `json:"minimum"`
}

// FirmwareSecureParams of decom.firmware_secure.
type FirmwareSecureParams struct {
	TaskID   string         `json:"task_id"`
	Firmware []FirmwareItem `json:"firmware,omitempty"`
}

// QCParams of decom.qc. Spec is in the form of package hwinfo/qc.
type QCParams struct {
	TaskID string          `json:"task_id"`
	Spec   json.RawMessage `json:"spec,omitempty"`
}

// Image says where an OS image is fetched from and how it is verified. Hashes
// are of the file as fetched, hexadecimal, by algorithm ("sha256", "sha512").
type Image struct {
	ID     string            `json:"id"`
	Name   string            `json:"name,omitempty"`
	URLs   []string          `json:"urls"`
	Hashes map[string]string `json:"hashes"`
	Format string            `json:"format,omitempty"` // "raw", "qcow2", "raw.gz", "raw.xz", "raw.zst"; empty: raw
	Size   int64             `json:"size,omitempty"`   // bytes of the file as fetched
}

// RootDevice chooses the disk an image is written to. All fields that are set
// must match; of several disks that match, the smallest wins. With none set it
// is the smallest disk of at least 4 GiB, as ironic-python-agent chooses.
type RootDevice struct {
	Disk
	Model     string `json:"model,omitempty"`
	Transport string `json:"transport,omitempty"`
	MinSize   int64  `json:"min_size,omitempty"` // bytes
}

// CacheImagesParams of standbye.cache_images: ImageIDs in order of priority.
// The chassis may cache only some. Images tells where to fetch them; the
// original has only the ids.
type CacheImagesParams struct {
	TaskID   string   `json:"task_id"`
	ImageIDs []string `json:"image_ids"`
	Images   []Image  `json:"images,omitempty"`
	// RootDevice will be written to next and is never used for the cache.
	RootDevice *RootDevice `json:"root_device,omitempty"`
}

// PrepareImageParams of standbye.prepare_image.
type PrepareImageParams struct {
	TaskID     string      `json:"task_id"`
	ImageID    string      `json:"image_id"`
	Image      *Image      `json:"image,omitempty"`
	RootDevice *RootDevice `json:"root_device,omitempty"`
}

// ConfigDrive is what the config-2 drive holds. MetaData, NetworkData and
// VendorData are JSON objects; Files maps absolute paths in the installed
// system to contents (base64 in JSON).
type ConfigDrive struct {
	MetaData    json.RawMessage   `json:"meta_data,omitempty"`
	UserData    string            `json:"user_data,omitempty"`
	NetworkData json.RawMessage   `json:"network_data,omitempty"`
	VendorData  json.RawMessage   `json:"vendor_data,omitempty"`
	Files       map[string][]byte `json:"files,omitempty"`
}

// RunImageParams of standbye.run_image. Boot is "auto" (kexec when the disk has
// a viable target, else reboot; the default), "kexec" or "reboot".
type RunImageParams struct {
	TaskID      string       `json:"task_id"`
	ImageID     string       `json:"image_id"`
	ConfigDrive *ConfigDrive `json:"configdrive,omitempty"`
	RootDevice  *RootDevice  `json:"root_device,omitempty"`
	Boot        string       `json:"boot,omitempty"`
}

// RebootParams have the chassis leave the ramdisk. Mode "" is ModeReboot.
type RebootParams struct {
	TaskID string `json:"task_id"`
	Mode   string `json:"mode,omitempty"`
}

// Values of RebootParams.Mode.
const (
	ModeReboot   = "reboot"
	ModePowerOff = "poweroff"
)
