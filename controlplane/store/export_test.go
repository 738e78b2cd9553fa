package store

// OnCommit has do called after every commit, before those who wait for it are
// told. It is set before the store is used.
func (s *Store) OnCommit(do func()) { s.committed = do }
