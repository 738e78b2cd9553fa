package rackhd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// Boot profiles: what a chassis gets from the boot script's URL.
const (
	profileRamdisk = "ipxe"      // it boots the ramdisk
	profileDisk    = "localboot" // it boots the system that was installed
)

func (s *Service) taskMethods() []method {
	node := func(key string, do func(context.Context, store.Chassis, call) (any, error)) method {
		return method{key: "methods." + key + ".*", handle: func(ctx context.Context, c call) (any, error) {
			chassis, err := s.chassis(ctx, c.words[0])
			if err != nil {
				return nil, err
			}
			return do(ctx, chassis, c)
		}}
	}
	// Our own messages come here, too. What is asked again changes nothing.
	cancel := func(ctx context.Context, id string) (any, error) {
		if err := exact("task", id); err != nil {
			return nil, err
		}
		t, err := s.c.Store.Task(ctx, strings.ToLower(id))
		if err != nil {
			return nil, err
		}
		if t.Final() {
			return rackhd.Result{}, nil
		}
		if t, err = s.c.Engine.CancelTask(ctx, t.ID); errors.Is(err, store.ErrConflict) {
			return rackhd.Result{}, nil
		}
		return rackhd.Result{Value: t.ID}, err
	}
	byKey := func(ctx context.Context, c call) (any, error) { return cancel(ctx, c.words[0]) }
	profile := func(_ context.Context, chassis store.Chassis, _ call) (any, error) {
		if chassis.InstalledAt != nil && chassis.OpenGraph == "" {
			return rackhd.Result{Value: profileDisk}, nil
		}
		return rackhd.Result{Value: profileRamdisk}, nil
	}
	commands := Commands{Store: s.c.Store, Finish: s.c.Engine.FinishTask}
	return []method{
		{key: "cancel.*", handle: byKey},
		{key: "methods.cancel.*", handle: byKey},
		{key: "methods.cancel", handle: func(ctx context.Context, c call) (any, error) {
			var in struct {
				TaskID string `json:"taskId"`
			}
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			return cancel(ctx, in.TaskID)
		}},
		node("requestProfile", profile),
		node("getBootProfile", profile),
		node("requestProperties", func(ctx context.Context, chassis store.Chassis, _ call) (any, error) {
			properties := object{
				"nodeId": rackhd.NodeID(chassis.ID), "chassis": chassis.ID, "name": chassis.Name, "uuid": chassis.UUID,
				"serial": chassis.Serial, "mac": chassis.MAC, "macs": chassis.MACs,
			}
			t, err := s.activeTask(ctx, chassis)
			if err == nil {
				properties["task"] = taskObject(t)
			} else if !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
			return rackhd.Result{Value: properties}, nil
		}),
		node("activeTaskExists", func(ctx context.Context, chassis store.Chassis, _ call) (any, error) {
			t, err := s.activeTask(ctx, chassis)
			if errors.Is(err, store.ErrNotFound) {
				return nil, nil // silence means that there is none
			}
			return rackhd.Result{Value: taskObject(t)}, err
		}),
		node("requestCommands", func(ctx context.Context, chassis store.Chassis, _ call) (any, error) {
			batch, ok, err := commands.Next(ctx, chassis)
			if !ok {
				return rackhd.Result{Value: object{}}, err
			}
			batch.TaskID = "" // the bus has RackHD's keys and no other
			return rackhd.Result{Value: batch}, err
		}),
		node("respondCommands", func(ctx context.Context, chassis store.Chassis, c call) (any, error) {
			var in struct {
				Value *rackhd.NodeTasks `json:"value"`
			}
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			if in.Value == nil {
				return nil, badRequest("%s: no value", c.Key)
			}
			if err := in.Value.Check(); err != nil {
				return nil, err
			}
			return rackhd.Result{Value: in.Value.Identifier}, commands.Report(ctx, chassis, *in.Value)
		}),
		{key: "methods.requestPollerCache", handle: func(ctx context.Context, c call) (any, error) {
			var in struct {
				Value string `json:"value"`
			}
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			hardware, err := s.hardware()
			if err != nil {
				return nil, err
			}
			result, err := hardware.PollerResult(ctx, in.Value)
			return rackhd.Result{Value: result}, err
		}},
	}
}

// activeTask is the task that a chassis is at.
func (s *Service) activeTask(ctx context.Context, chassis store.Chassis) (store.Task, error) {
	open, err := s.c.Store.OpenTasks(ctx, chassis.ID)
	if err != nil {
		return store.Task{}, err
	}
	for _, t := range open {
		if t.State == store.Running {
			return t, nil
		}
	}
	return store.Task{}, fmt.Errorf("active task of chassis %s: %w", chassis.ID, store.ErrNotFound)
}
