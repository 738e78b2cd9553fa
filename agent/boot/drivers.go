package boot

import "context"

// LoadModule loads a kernel module by name, with what it depends on, for work
// that no device announces, file systems for the most part: the kernel has no
// modprobe here that it could call. One that is built in, loaded already or not
// in the image is no error: what needs it fails with its own words.
func (m *Machine) LoadModule(ctx context.Context, name string) error {
	return m.loadModules(ctx, name)
}

func (m *Machine) loadModules(ctx context.Context, names ...string) error {
	if m.loader == nil {
		return nil
	}
	return m.loader.Load(ctx, names...)
}
