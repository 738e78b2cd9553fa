package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/hwinfo/qc"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// planner turns a task's options into params of a command, and refuses what the
// agent would. Disks are named by their identity as it was inspected: if the
// chassis has others by then, the agent refuses.
type planner func(e *Engine, ctx context.Context, c store.Chassis, options json.RawMessage) (params any, beside store.Command, err error)

// agentJobs are the commands of the native protocol.
var agentJobs = map[string]struct {
	method string
	plan   planner
}{
	"Job.Agent.Status":         {teeth.MethodStatus, planStatus(false)},
	"Job.Agent.Inspect":        {teeth.MethodStatus, planStatus(true)},
	"Job.Agent.DiskErase":      {teeth.MethodDiskErase, (*Engine).planErase},
	"Job.Agent.FirmwareSecure": {teeth.MethodFirmwareSecure, (*Engine).planFirmware},
	"Job.Agent.QC":             {teeth.MethodQC, (*Engine).planQC},
	"Job.Agent.CacheImages":    {teeth.MethodCacheImages, (*Engine).planCache},
	"Job.Agent.PrepareImage":   {teeth.MethodPrepareImage, (*Engine).planPrepare},
	"Job.Agent.RunImage":       {teeth.MethodRunImage, (*Engine).planRun},
	"Job.Agent.Reboot":         {teeth.MethodReboot, (*Engine).planReboot},
}

// command is what an agent is sent for a job. One that could never be sent is
// refused now.
func (e *Engine) command(ctx context.Context, c store.Chassis, job string, options json.RawMessage) (store.Command, error) {
	j := agentJobs[job]
	params, command, err := j.plan(e, ctx, c, options)
	if err != nil {
		return command, err
	}
	command.Method = j.method
	if command.Params, err = json.Marshal(params); err != nil {
		return command, err
	}
	const anyID = "00000000-0000-0000-0000-000000000000" // as long as any
	sent, err := withTaskID(command.Params, anyID)
	if err != nil {
		return command, err
	}
	m, err := teeth.NewCommand(anyID, j.method, sent)
	if err == nil {
		_, err = m.Append(nil)
	}
	if errors.Is(err, teeth.ErrLineTooLong) {
		err = invalid("the command would be longer than %d KiB, the most an agent takes: send less user data or fewer files", teeth.MaxLine>>10)
	}
	return command, err
}

func planStatus(inventory bool) planner {
	return func(_ *Engine, _ context.Context, _ store.Chassis, options json.RawMessage) (any, store.Command, error) {
		return teeth.StatusParams{Inventory: inventory}, store.Command{}, decodeOptions(options, &struct{}{})
	}
}

// eraseOptions are those of Job.Agent.DiskErase.
type eraseOptions struct {
	// Disks to erase, each by serial number, WWN or kernel name as the inventory
	// has them. Empty: all of the inventory.
	Disks  []string `json:"disks"`
	Method string   `json:"method"` // auto (default), zeroout, overwrite
	Verify string   `json:"verify"` // full (default), sample
}

func (e *Engine) planErase(_ context.Context, c store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o eraseOptions
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	if o.Method != "" && !slices.Contains([]string{"auto", "zeroout", "overwrite"}, o.Method) {
		return nil, store.Command{}, invalid("method %.20q: want auto, zeroout or overwrite", o.Method)
	}
	if o.Verify != "" && !slices.Contains([]string{"full", "sample"}, o.Verify) {
		return nil, store.Command{}, invalid("verify %.20q: want full or sample", o.Verify)
	}
	present, err := disks(c)
	if err != nil {
		return nil, store.Command{}, err
	}
	chosen, err := choose(present, o.Disks)
	return teeth.DiskEraseParams{Disks: chosen, Method: o.Method, Verify: o.Verify}, store.Command{}, err
}

func (e *Engine) planFirmware(_ context.Context, _ store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o struct {
		Firmware []teeth.FirmwareItem `json:"firmware"`
	}
	err := decodeOptions(options, &o)
	return teeth.FirmwareSecureParams{Firmware: o.Firmware}, store.Command{}, err
}

func (e *Engine) planQC(ctx context.Context, _ store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o struct {
		Spec json.RawMessage `json:"spec"`
		Name string          `json:"spec_name"`
	}
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	if string(o.Spec) == "null" {
		o.Spec = nil
	}
	if o.Name != "" {
		if len(o.Spec) > 0 {
			return nil, store.Command{}, invalid("spec and spec_name: give one of them")
		}
		kept, err := e.c.Store.Spec(ctx, o.Name)
		if err != nil {
			return nil, store.Command{}, err
		}
		o.Spec = kept.Spec // the task has it, whatever becomes of the one that is kept
	}
	if len(o.Spec) > 0 {
		if _, err := qc.Parse(o.Spec); err != nil {
			return nil, store.Command{}, invalid("spec: %w", err)
		}
	}
	return teeth.QCParams{Spec: o.Spec}, store.Command{}, nil
}

// capabilityLife is how long a chassis may download an image that it was told of: a
// command may wait for a chassis that is repaired, and is sent again as it was made.
const capabilityLife = 7 * 24 * time.Hour

// source describes an image to an agent.
func (e *Engine) source(ctx context.Context, c store.Chassis, ref string) (store.Image, teeth.Image, error) {
	img, err := e.c.Store.Image(ctx, ref)
	if err != nil {
		return img, teeth.Image{}, err
	}
	base, err := e.c.BootURL(c)
	url := base + "/images/" + img.ID
	if e.c.ImageKey != "" {
		url = images.URL(base, e.c.ImageKey, img.ID, time.Now().Add(capabilityLife))
	}
	return img, teeth.Image{
		ID: img.ID, Name: img.Name, URLs: []string{url},
		Hashes: map[string]string{"sha256": img.SHA256}, Format: img.Format, Size: img.Size,
	}, err
}

func (e *Engine) planCache(ctx context.Context, c store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o struct {
		Image      string            `json:"image"`  // id or name
		Images     []string          `json:"images"` // ditto, beside it
		RootDevice *teeth.RootDevice `json:"root_device"`
	}
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	if o.Image != "" {
		o.Images = append([]string{o.Image}, o.Images...)
	}
	if len(o.Images) == 0 {
		return nil, store.Command{}, invalid("no image is named: give the option \"image\" or \"images\"")
	}
	root, err := rootDevice(c, o.RootDevice)
	if err != nil {
		return nil, store.Command{}, err
	}
	p, beside := teeth.CacheImagesParams{RootDevice: root}, store.Command{}
	for _, ref := range o.Images {
		img, source, err := e.source(ctx, c, ref)
		if err != nil {
			return nil, store.Command{}, err
		}
		p.ImageIDs, p.Images = append(p.ImageIDs, img.ID), append(p.Images, source)
		if beside.Image == "" {
			beside.Image = img.ID
		}
	}
	return p, beside, nil
}

func (e *Engine) planPrepare(ctx context.Context, c store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o struct {
		Image      string            `json:"image"`
		RootDevice *teeth.RootDevice `json:"root_device"`
	}
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	img, source, err := e.source(ctx, c, o.Image)
	if err != nil {
		return nil, store.Command{}, err
	}
	root, err := rootDevice(c, o.RootDevice)
	return teeth.PrepareImageParams{ImageID: img.ID, Image: &source, RootDevice: root}, store.Command{Image: img.ID}, err
}

// planRun has the installed system's cloud-init told by vendor data to call back,
// which puts the chassis in service.
func (e *Engine) planRun(ctx context.Context, c store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o Provision
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	if err := o.check(); err != nil {
		return nil, store.Command{}, err
	}
	img, err := e.c.Store.Image(ctx, o.Image)
	if err != nil {
		return nil, store.Command{}, err
	}
	base, err := e.c.BootURL(c)
	if err != nil {
		return nil, store.Command{}, err
	}
	root, err := rootDevice(c, o.RootDevice)
	if err != nil {
		return nil, store.Command{}, err
	}
	token := pki.NewSecret()
	drive, err := configDrive(c, o, base+"/phone_home/"+token)
	return teeth.RunImageParams{ImageID: img.ID, ConfigDrive: drive, RootDevice: root, Boot: o.Boot},
		store.Command{Image: img.ID, PhoneHome: token, ChassisName: o.Hostname}, err
}

func (e *Engine) planReboot(_ context.Context, _ store.Chassis, options json.RawMessage) (any, store.Command, error) {
	var o struct {
		Mode string `json:"mode"`
	}
	if err := decodeOptions(options, &o); err != nil {
		return nil, store.Command{}, err
	}
	if o.Mode != "" && o.Mode != teeth.ModeReboot && o.Mode != teeth.ModePowerOff {
		return nil, store.Command{}, invalid("mode %.20q: want %s or %s", o.Mode, teeth.ModeReboot, teeth.ModePowerOff)
	}
	return teeth.RebootParams{Mode: o.Mode}, store.Command{}, nil
}

// toMap is v as options.
func toMap(v any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out, err := value(raw)
	if err != nil {
		return nil, err
	}
	m, ok := out.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%T is no object", v)
	}
	return m, nil
}
