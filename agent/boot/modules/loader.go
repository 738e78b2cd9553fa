package modules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/boot/lastwords"
)

// workers is how many modules are being linked at once. Most of the time goes
// into the probe functions of drivers, which wait for hardware.
const workers = 4

// errDenied is only an error to a module that needs the denied one.
var errDenied = errors.New("denied on the kernel command line")

// Loader loads the modules of one Index, each at most once. Its methods are
// safe for concurrent use.
type Loader struct {
	Index  *Index
	Params map[string]string // module name -> parameters, as finit_module(2) takes them
	Denied []string          // modules never to load, by name
	// Loaded, which may be nil, is called after each module that this Loader
	// brought into the kernel, from several goroutines.
	Loaded func(module string, took time.Duration)

	// insert is finit_module(2) but for tests.
	insert func(path, params string) error

	once  sync.Once
	slots chan struct{}

	mu    sync.Mutex
	state map[string]*load
}

// load is one module on its way into the kernel.
type load struct {
	done chan struct{}
	err  error
}

func (l *Loader) init() {
	l.once.Do(func() {
		l.slots = make(chan struct{}, workers)
		l.state = map[string]*load{}
		if l.insert == nil {
			l.insert = insertModule
		}
	})
}

// Load loads what each name or modalias stands for, with all it depends on, in
// parallel. Names that stand for nothing, modules that are there already and
// drivers that find no hardware are fine; every other failure is part of the
// error, which names the module.
func (l *Loader) Load(ctx context.Context, names ...string) error {
	l.init()
	var want []string
	for _, n := range names {
		want = append(want, l.Index.Lookup(n)...)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	errs := make([]error, len(want))
	var wg sync.WaitGroup
	for i, m := range want {
		wg.Add(1)
		lastwords.Go("load module "+m, func() {
			defer wg.Done()
			errs[i] = l.loadPlan(ctx, m)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// loadPlan loads one module and its dependencies in order. It reports the
// failure of the module itself only: a dependency that failed says so through
// the module that could not be linked without it.
func (l *Loader) loadPlan(ctx context.Context, module string) error {
	var depErrs []error
	for _, m := range l.Index.plan(module) {
		err := l.one(ctx, m)
		if m == module {
			if errors.Is(err, errDenied) {
				return nil
			}
			if err != nil {
				return errors.Join(err, errors.Join(depErrs...))
			}
			continue
		}
		if err != nil {
			depErrs = append(depErrs, err)
		}
	}
	return nil
}

// one loads a single module, or waits for whoever is loading it.
func (l *Loader) one(ctx context.Context, module string) error {
	l.mu.Lock()
	s := l.state[module]
	if s != nil {
		l.mu.Unlock()
		select {
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s = &load{done: make(chan struct{})}
	l.state[module] = s
	l.mu.Unlock()

	defer close(s.done)
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.state, module)
		l.mu.Unlock()
		s.err = ctx.Err()
		return s.err
	}
	s.err = l.insertNamed(module)
	return s.err
}

func (l *Loader) insertNamed(module string) error {
	if slices.ContainsFunc(l.Denied, func(d string) bool { return underscores(d) == module }) {
		return fmt.Errorf("module %s: %w", module, errDenied)
	}
	began := time.Now()
	err := l.insert(l.Index.dir+"/"+l.Index.files[module], l.Params[module])
	switch {
	case err == nil:
		if l.Loaded != nil {
			l.Loaded(module, time.Since(began))
		}
		return nil
	case errors.Is(err, fs.ErrExist), errors.Is(err, unix.ENODEV):
		// ENODEV: the driver is for hardware that this machine lacks.
		return nil
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("module %s: missing file or symbol: %w", module, err)
	}
	return fmt.Errorf("module %s: %w", module, err)
}

func insertModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		// The kernel unpacks it when built with CONFIG_MODULE_DECOMPRESS.
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	for {
		err = unix.FinitModule(int(f.Fd()), params, flags)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
