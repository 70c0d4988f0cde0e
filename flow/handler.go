package flow

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
)

// SinkFunc is a sink made of a function: the batch is done when it returns
// nil. Delivery is at least once. Calls for different lanes overlap.
type SinkFunc func(ctx context.Context, b *Batch) error

var (
	_ Sink   = SinkFunc(nil)
	_ Writer = sinkFuncWriter(nil)
)

// Open does nothing.
func (f SinkFunc) Open(context.Context, Setup) error { return nil }

// Writer returns a writer that calls the function.
func (f SinkFunc) Writer(int) (Writer, error) { return sinkFuncWriter(f), nil }

// Close does nothing.
func (f SinkFunc) Close(context.Context) error { return nil }

type sinkFuncWriter func(ctx context.Context, b *Batch) error

func (f sinkFuncWriter) Write(ctx context.Context, b *Batch) error { return f(ctx, b) }
func (f sinkFuncWriter) Close() error                              { return nil }

// Handler makes a sink of a function for one record. Each lane runs it in
// workers goroutines at a time; records with the same key, and records of one
// partition without a key, are handled in order, one after the other.
//
// An error sends the record back: records that were handled are not handled
// again in this process, the failed one and those after it with the same key
// are tried again as Config.Retry says. A *RecordError makes the record a dead letter. The
// position moves when all records of a batch are handled, so a crash repeats
// at most the batches that were under way: delivery is at least once.
//
// The record holds until fn returns; copy what you keep.
func Handler(workers int, fn func(ctx context.Context, r *Record) error) Sink {
	return &handler{workers: max(1, workers), fn: fn}
}

type handler struct {
	workers int
	fn      func(context.Context, *Record) error
}

var _ Sink = (*handler)(nil)

func (h *handler) Open(context.Context, Setup) error { return nil }
func (h *handler) Close(context.Context) error       { return nil }
func (h *handler) Writer(int) (Writer, error) {
	return &handlerWriter{
		handler: h, seed: maphash.MakeSeed(), done: map[doneKey]struct{}{},
		queues: make([][]int, h.workers), handled: make([][]int, h.workers), errs: make([]error, h.workers),
	}, nil
}

type handlerWriter struct {
	*handler
	seed maphash.Seed
	// By worker: the rows to handle, those handled in this attempt, the first error.
	queues, handled [][]int
	errs            []error
	// done are the records handled in earlier attempts at this batch. Only
	// read while workers run.
	done map[doneKey]struct{}
}

type doneKey struct {
	Partition
	offset int64
}

func (w *handlerWriter) Close() error { return nil }

// Write handles the rows of b, each worker those of its keys.
func (w *handlerWriter) Write(ctx context.Context, b *Batch) error {
	for i := range w.workers {
		w.queues[i], w.handled[i], w.errs[i] = w.queues[i][:0], w.handled[i][:0], nil
	}
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		n := w.worker(b, i)
		w.queues[n] = append(w.queues[n], i)
	}
	var wg sync.WaitGroup
	for n := range w.workers {
		if len(w.queues[n]) > 0 {
			wg.Go(func() { w.work(ctx, b, n) })
		}
	}
	wg.Wait()
	var data *DataError
	var failed error
	for _, err := range w.errs {
		if err == nil || data == nil && errors.As(err, &data) {
			continue
		}
		if failed == nil && !errors.As(err, new(*DataError)) {
			failed = err
		}
	}
	if failed == nil && data == nil {
		clear(w.done)
		return nil
	}
	for _, rows := range w.handled {
		for _, i := range rows {
			w.done[doneKey{b.partOf(i).Partition, b.Records[i].Offset}] = struct{}{}
		}
	}
	if data != nil { // found is found: the others are tried again anyway
		return data
	}
	return failed
}

func (w *handlerWriter) worker(b *Batch, i int) int {
	r := &b.Records[i]
	if r.Key == nil {
		return int(r.Part) % w.workers
	}
	return int(maphash.Bytes(w.seed, r.Key) % uint64(w.workers)) //nolint:gosec // workers is small and positive
}

// work handles the rows of worker n in order. After a failure it goes on with other
// keys: only what comes after the failed record with the same key must wait.
func (w *handlerWriter) work(ctx context.Context, b *Batch, n int) {
	var stuck map[string]bool
	for _, i := range w.queues[n] {
		r := &b.Records[i]
		part := b.partOf(i).Partition
		if len(w.done) > 0 {
			if _, ok := w.done[doneKey{part, r.Offset}]; ok {
				continue
			}
		}
		if stuck != nil && stuck[orderKey(part, r)] {
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = w.fn(ctx, r)
		}
		if err == nil {
			w.handled[n] = append(w.handled[n], i)
			continue
		}
		if bad := new(RecordError); errors.As(err, &bad) {
			err = &DataError{Rows: []int{i}, Err: err}
		} else {
			err = fmt.Errorf("handling %s offset %d: %w", part, r.Offset, err)
		}
		if w.errs[n] == nil {
			w.errs[n] = err
		}
		if ctx.Err() != nil {
			return
		}
		if stuck == nil {
			stuck = map[string]bool{}
		}
		stuck[orderKey(part, r)] = true
	}
}

// orderKey names what must be handled in order: a key, or for records without one the
// partition.
func orderKey(p Partition, r *Record) string {
	if r.Key == nil {
		return "\x00" + p.String()
	}
	return "k" + string(r.Key)
}
