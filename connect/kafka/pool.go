package kafka

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// slabs recycles the arrays in which kgo decodes records: one per batch of a
// fetch, free again as soon as Read has copied the views out of it. (Not the
// decompressed bytes: those views still point there.)
type slabs struct {
	mu   sync.Mutex
	free [][]kgo.Record
}

var _ kgo.PoolRecords = (*slabs)(nil)

const (
	maxSlabs = 64
	// maxSlab bounds the records of an array that is kept: 180 bytes each.
	maxSlab = 16_384
)

// GetRecords returns an array that is large enough, or the last one: kgo grows it.
func (s *slabs) GetRecords(n int) []kgo.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.free) - 1; i >= 0; i-- {
		if slab := s.free[i]; cap(slab) >= n {
			last := len(s.free) - 1
			s.free[i], s.free[last] = s.free[last], nil
			s.free = s.free[:last]
			return slab[:0]
		}
	}
	return make([]kgo.Record, 0, n)
}

// PutRecords keeps the array. Its records are zero: Recycle saw to that.
func (s *slabs) PutRecords(slab []kgo.Record) {
	if cap(slab) > maxSlab {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == maxSlabs { // make room: sizes change with the producers
		copy(s.free, s.free[1:])
		s.free = s.free[:maxSlabs-1]
	}
	s.free = append(s.free, slab[:0])
}
