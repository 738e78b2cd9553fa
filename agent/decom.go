package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/erase"
	"github.com/teeth-metal/teeth/hwinfo/firmware"
	"github.com/teeth-metal/teeth/hwinfo/qc"
	"github.com/teeth-metal/teeth/progress"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// erasedAtOnce is how many disks are erased in parallel, as many as
// ironic-python-agent does.
const erasedAtOnce = 4

func (a *Agent) diskErase(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.DiskEraseParams
	if err := teeth.DecodeParams(teeth.MethodDiskErase, params, &p, "task_id"); err != nil {
		return "", false, nil, err
	}
	if p.Disks != nil && len(p.Disks) == 0 {
		// A list that came out empty by mistake must not mean every disk.
		return "", false, nil, errors.New("\"disks\" is an empty list: name disks, or leave it out to erase all")
	}
	for i, d := range p.Disks {
		if identity(d).IsZero() {
			return "", false, nil, fmt.Errorf("disk %d of %d: %w", i+1, len(p.Disks), errUnnamed)
		}
	}
	opt := erase.Options{Method: erase.Method(p.Method), Verify: erase.Verify(p.Verify)}
	if err := opt.Validate(); err != nil {
		return "", false, nil, err
	}
	return p.TaskID, true, func(ctx context.Context, t *task.Task) (any, error) {
		present, unreadable := a.disks()
		disks, err := named(present, p.Disks)
		if err != nil {
			return nil, errors.Join(err, unreadable)
		}
		reports, err := a.eraseAll(ctx, disks, opt, t)
		if unreadable != nil && len(p.Disks) > 0 {
			a.log.Warn("some disk cannot be read, and is not to be erased", "err", unreadable)
		} else {
			err = errors.Join(err, unreadable) // all was asked for, and not all was erased
		}
		if err != nil {
			return nil, err
		}
		return map[string]any{"disks": reports}, nil
	}, nil
}

// eraseAll erases disks side by side. One that fails does not stop the others:
// the operator wants to know of every bad disk at once.
func (a *Agent) eraseAll(ctx context.Context, disks []blockdev.Info, opt erase.Options, t *task.Task) ([]erase.Report, error) {
	t.Step(fmt.Sprintf("erasing and verifying %s", names(disks)))
	sum := newSum(len(disks), t.Progress)
	for i, d := range disks {
		sum.part(i)(0, 2*d.Size)
	}
	reports := make([]erase.Report, len(disks))
	problems := make([]error, len(disks))
	slots := make(chan struct{}, erasedAtOnce)
	var wg sync.WaitGroup
	for i, d := range disks {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			reports[i], problems[i] = a.eraseOne(ctx, d, opt, sum.part(i))
		})
	}
	wg.Wait()
	return reports, errors.Join(problems...)
}

func (a *Agent) eraseOne(ctx context.Context, d blockdev.Info, opt erase.Options, report progress.Func) (r erase.Report, err error) {
	defer func() {
		// The goroutine is not the task's, whose panics are errors already.
		if p := recover(); p != nil {
			err = fmt.Errorf("erase disk %s panicked: %v", d.Path, p)
			a.log.Error("erasing panicked", "disk", d.Path, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	a.known.forget(d)
	opt.Expect, opt.Progress = d.Identity(), report
	r, err = erase.Disk(ctx, d.Path, opt)
	if err != nil {
		a.log.Error("disk not erased", "disk", d.Path, "serial", d.Serial, "bytes_erased", r.BytesErased, "err", err)
		return r, err
	}
	if r.BytesVerified == d.Size {
		a.known.set(d, content{zero: true})
	}
	a.log.Info("disk erased and verified", "disk", d.Path, "serial", d.Serial, "bytes", d.Size)
	return r, nil
}

func names(disks []blockdev.Info) string {
	var n []string
	for _, d := range disks {
		n = append(n, d.Name)
	}
	return strings.Join(n, ", ")
}

// sum adds up the progress of parts that run side by side.
type sum struct {
	mu          sync.Mutex
	done, total []int64
	report      progress.Func
}

func newSum(parts int, report progress.Func) *sum {
	return &sum{done: make([]int64, parts), total: make([]int64, parts), report: report}
}

func (s *sum) part(i int) progress.Func {
	return func(done, total int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done[i], s.total[i] = done, total
		var d, t int64
		for j := range s.done {
			d += s.done[j]
			t += s.total[j]
		}
		s.report.Report(d, t)
	}
}

// firmwareSecure compares the versions that are installed with the wanted ones.
func (a *Agent) firmwareSecure(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.FirmwareSecureParams
	if err := teeth.DecodeParams(teeth.MethodFirmwareSecure, params, &p, "task_id"); err != nil {
		return "", false, nil, err
	}
	var wanted []firmware.Wanted
	for _, f := range p.Firmware {
		w := firmware.Wanted{Component: f.Component, Model: f.Model, Minimum: f.Minimum}
		if err := w.Validate(); err != nil {
			return "", false, nil, err
		}
		wanted = append(wanted, w)
	}
	return p.TaskID, false, func(ctx context.Context, t *task.Task) (any, error) {
		t.Step("reading firmware versions")
		inv, err := a.inventory(ctx)
		if err != nil {
			return nil, err
		}
		findings := firmware.Check(inv, wanted)
		var problems []error
		for _, f := range findings {
			if f.State != firmware.Current {
				problems = append(problems, errors.New(f.String()))
			}
		}
		if len(problems) > 0 {
			return nil, fmt.Errorf("firmware is not as wanted, and no update is offered: %w", errors.Join(problems...))
		}
		return map[string]any{"firmware": inv.Firmware, "findings": findings}, nil
	}, nil
}

// qualityControl compares this chassis with its spec.
func (a *Agent) qualityControl(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.QCParams
	if err := teeth.DecodeParams(teeth.MethodQC, params, &p, "task_id"); err != nil {
		return "", false, nil, err
	}
	spec := &qc.Spec{}
	if len(p.Spec) > 0 && string(p.Spec) != "null" {
		var err error
		if spec, err = qc.Parse(p.Spec); err != nil {
			return "", false, nil, fmt.Errorf("spec: %w", err)
		}
	}
	return p.TaskID, false, func(ctx context.Context, t *task.Task) (any, error) {
		t.Step("comparing the chassis with its spec")
		inv, err := a.inventory(ctx)
		if err != nil {
			return nil, err
		}
		differences := qc.Compare(inv, spec)
		if len(differences) > 0 {
			var lines []string
			for _, d := range differences {
				lines = append(lines, d.String())
			}
			return nil, fmt.Errorf("the chassis differs from its spec in %d points: %s", len(differences), strings.Join(lines, "; "))
		}
		return map[string]any{"differences": []string{}}, nil
	}, nil
}
