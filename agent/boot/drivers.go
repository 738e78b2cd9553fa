package boot

import "context"

// LoadModule loads a kernel module by name, with what it depends on. One that
// is built in, loaded already or not in the image is no error: what needs it
// fails with its own words.
func (m *Machine) LoadModule(ctx context.Context, name string) error {
	if m.plugger == nil {
		return nil
	}
	return m.plugger.Loader.Load(ctx, name)
}
