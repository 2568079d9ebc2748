package membership

import (
	"io"

	"github.com/hashicorp/serf/serf"
)

var NewLogWriter = newLogWriter

// SerfRefusesTags asks serf itself.
func SerfRefusesTags(tags map[string]string) bool {
	c := serf.DefaultConfig()
	c.NodeName, c.Tags, c.LogOutput = "x", tags, io.Discard
	c.MemberlistConfig = nil // it looks at the tags first
	_, err := serf.Create(c)
	return err != nil && err.Error() == "Encoded length of tags exceeds limit of 512 bytes"
}

// Prune has serf forget a member as `serf force-leave -prune` does: without
// asking whether it is alive.
func (r *Ring) Prune(node string) error {
	s, done, err := r.use()
	if err != nil {
		return err
	}
	defer done()
	return s.RemoveFailedNodePrune(node)
}
