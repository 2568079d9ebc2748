package gossip

// Overlay chooses who is sent a delta at once. Whoever else lacks it finds
// that out from heads, and pulls. Safe for concurrent use; must not block.
type Overlay interface {
	// Targets are those of the connected peers that are sent what came from a
	// peer, or, where from is empty, what was written here.
	Targets(from string, peers []string) []string
}

// FullMesh sends what was written here to everybody, and nothing twice.
type FullMesh struct{}

// Targets is Overlay's.
func (FullMesh) Targets(from string, peers []string) []string {
	if from != "" {
		return nil
	}
	return peers
}
