package kafka

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/slab"
)

// slabs recycles the arrays in which kgo decodes records: one per batch of a
// fetch, free again as soon as Read has copied the views out of it. (Not the
// decompressed bytes: those views still point there.)
type slabs struct{ pool slab.Pool[kgo.Record] }

var _ kgo.PoolRecords = (*slabs)(nil)

// maxFreeRecords bounds the records that are kept, 180 bytes each.
const maxFreeRecords = 48 << 10

func newSlabs() *slabs { return &slabs{slab.Pool[kgo.Record]{Max: maxFreeRecords}} }

// GetRecords returns an array that is large enough.
func (s *slabs) GetRecords(n int) []kgo.Record { return s.pool.Get(n) }

// PutRecords keeps the array. Its records are zero: Recycle saw to that.
func (s *slabs) PutRecords(slab []kgo.Record) { s.pool.Put(slab) }
