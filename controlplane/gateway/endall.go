package gateway

// EndAll ends all sessions. Agents connect again after a while of their own choice.
func (g *Gateway) EndAll(reason error) {
	g.mu.Lock()
	sessions := make([]*Session, 0, len(g.sessions))
	for _, s := range g.sessions {
		sessions = append(sessions, s)
	}
	g.mu.Unlock()
	for _, s := range sessions {
		s.end(reason)
	}
}
