package reactor

// chunk is how many objects are allocated together.
const chunk = 64

// Slab holds objects by number, allocated in chunks and used again: none is
// allocated, moved or collected for a connection once there were as many.
// Every use of a place has a generation of its own, so that what is late for
// the last one does not meet the next. The zero value is ready.
type Slab[T any] struct {
	chunks []*[chunk]entry[T]
	free   []uint32
	used   int
}

type entry[T any] struct {
	generation uint32 // odd while the place is in use
	value      T
}

// Get takes a place, whose content is what Put left.
func (s *Slab[T]) Get() (id, generation uint32, v *T) {
	if len(s.free) == 0 {
		base := uint32(len(s.chunks) * chunk)
		s.chunks = append(s.chunks, new([chunk]entry[T]))
		for i := range uint32(chunk) {
			s.free = append(s.free, base+chunk-1-i) // low numbers first: a burst's memory is not touched again
		}
	}
	id = s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.used++
	e := s.entry(id)
	e.generation++
	return id, e.generation, &e.value
}

// Put gives a place back; what its object points at is the caller's to clear.
func (s *Slab[T]) Put(id uint32) {
	s.entry(id).generation++
	s.free = append(s.free, id)
	s.used--
}

// At is the object at a place in use.
func (s *Slab[T]) At(id uint32) *T { return &s.entry(id).value }

// Find is the object that got this generation; nil: it has been given back since.
func (s *Slab[T]) Find(id, generation uint32) *T {
	if int(id) >= len(s.chunks)*chunk {
		return nil
	}
	if e := s.entry(id); e.generation == generation {
		return &e.value
	}
	return nil
}

func (s *Slab[T]) entry(id uint32) *entry[T] { return &s.chunks[id/chunk][id%chunk] }

// Len is the number of objects in use.
func (s *Slab[T]) Len() int { return s.used }

// Each calls fn for every object in use; fn may give that one back, and take none.
func (s *Slab[T]) Each(fn func(id uint32, v *T)) {
	for i, c := range s.chunks {
		for j := range c {
			if c[j].generation%2 == 1 {
				fn(uint32(i*chunk+j), &c[j].value)
			}
		}
	}
}
