package node

// untimed says that what was written here gets no stamp yet: with a clock that
// runs ahead the others would keep it apart until its time has come. Until any
// of them is heard there is nobody to send it to; it is routed by here.
func (m *replication) untimed() bool {
	if m.timed.Load() {
		return false
	}
	if m.expectsPeers() && !m.heard() {
		return true
	}
	m.timed.Store(true)
	return false
}

// now is mesh time in milliseconds since 1970.
func (m *replication) now() int64 {
	if m.streams == nil {
		return m.clock().UnixMilli()
	}
	return m.streams.Time().Mesh.UnixMilli()
}

// span is how many milliseconds later than that others may rightly think it is.
func (m *replication) span() int64 {
	if m.streams == nil {
		return 0
	}
	return m.streams.Time().Span.Milliseconds()
}

// heard says whether mesh time rests on any clock but ours.
func (m *replication) heard() bool { return m.streams != nil && m.streams.ClockKnown() }
