package dlq

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/penstockdev/penstock/flow"
)

// headerOrigin carries the offset that a record was read from to restored, which takes it away.
const headerOrigin = "penstock.redrive.origin"

func origin(offset int64) flow.Header {
	return flow.Header{Key: headerOrigin, Value: binary.BigEndian.AppendUint64(nil, uint64(offset))} //nolint:gosec // back again in restored
}

// restored shows the transforms of the flow file the records under the offsets that they were read
// from: a column may be made of that.
type restored struct {
	inner  []flow.Transform
	places []int64 // the records' offsets in this flow
}

var (
	_ flow.Transform = (*restored)(nil)
	_ flow.Schemer   = (*restored)(nil)
)

// restore puts restored around the transforms.
func restore(transforms func(int) ([]flow.Transform, error)) func(int) ([]flow.Transform, error) {
	return func(lane int) ([]flow.Transform, error) {
		var inner []flow.Transform
		if transforms != nil {
			var err error
			if inner, err = transforms(lane); err != nil {
				return nil, err
			}
		}
		return []flow.Transform{&restored{inner: inner}}, nil
	}
}

// Fields implements flow.Schemer.
func (r *restored) Fields() (out []flow.Field) {
	for _, t := range r.inner {
		if s, ok := t.(flow.Schemer); ok {
			out = s.Fields()
		}
	}
	return out
}

// Process implements flow.Transform.
func (r *restored) Process(ctx context.Context, b *flow.Batch) error {
	r.places = r.places[:0]
	for i := range b.Records {
		rec := &b.Records[i]
		last := len(rec.Headers) - 1
		if last < 0 || rec.Headers[last].Key != headerOrigin {
			return fmt.Errorf("the letter at %d has lost where its record was read from", rec.Offset)
		}
		r.places = append(r.places, rec.Offset)
		rec.Offset = int64(binary.BigEndian.Uint64(rec.Headers[last].Value)) //nolint:gosec // see origin
		rec.Headers = rec.Headers[:last:last]
	}
	defer func() {
		for i := range b.Records {
			b.Records[i].Offset = r.places[i]
		}
	}()
	for _, t := range r.inner {
		if err := t.Process(ctx, b); err != nil {
			return err
		}
	}
	return nil
}
