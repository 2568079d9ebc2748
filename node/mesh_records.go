package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// quarantined does one thing to the record of a row.
func (m *replication) quarantined(ctx context.Context, row string, do func(context.Context, []crdt.Key) error) error {
	held, err := m.store.Quarantine(ctx)
	if err != nil {
		return err
	}
	var keys []crdt.Key
	for _, h := range held {
		if rowName(h.Key) == row && !slices.Contains(keys, h.Key) {
			keys = append(keys, h.Key)
		}
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: no record of %q is in quarantine", api.ErrNotFound, row)
	}
	return do(ctx, keys)
}

// rowName is a row as people name it: table/id.
func rowName(k crdt.Key) string {
	columns, err := k.Columns()
	if err != nil || len(columns) == 0 {
		return k.Table + "/?"
	}
	name := k.Table
	for _, c := range columns {
		text, ok := c.Any().(string)
		if !ok {
			text = c.String()
		}
		name += "/" + text
	}
	return name
}

// shortName is a row's name where a line has room for a part of it only: its
// id may have a megabyte.
func shortName(k crdt.Key) string {
	const most = 100
	name := rowName(k)
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// logBegun says what was found in the file, at the start or in the place of the old one.
func (m *replication) logBegun(b sqlite.Begun) {
	e := m.log.Info()
	if b.TriggersRestored || b.Crashed > 0 {
		e = m.log.Warn()
	}
	e = e.Str("origin", b.Origin.String())
	if b.Why != "" {
		e = e.Str("why", b.Why)
	}
	for name, n := range map[string]int{"adopted": b.Adopted, "edited": b.Edited, "brought_back": b.Restored, "was_applying": b.Crashed} {
		if n > 0 {
			e = e.Int(name, n)
		}
	}
	e.Bool("new_epoch", b.NewEpoch).Bool("triggers_restored", b.TriggersRestored).Msg("records ready")
}
