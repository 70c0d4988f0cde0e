package flow_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// handled records what a handler saw, per key, in order.
type handled struct {
	mu    sync.Mutex
	calls map[string][]int64
	fail  func(r *flow.Record, before int) error
}

func (h *handled) handle(_ context.Context, r *flow.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		before := 0
		for _, o := range h.calls[string(r.Key)] {
			if o == r.Offset {
				before++
			}
		}
		if err := h.fail(r, before); err != nil {
			return err
		}
	}
	if h.calls == nil {
		h.calls = map[string][]int64{}
	}
	h.calls[string(r.Key)] = append(h.calls[string(r.Key)], r.Offset)
	return nil
}

func keyedBatch(n, keys int) *flow.Batch {
	records := make([]flow.Record, n)
	for i := range records {
		records[i] = flow.Record{Key: []byte(strconv.Itoa(i % keys)), Offset: int64(i)}
	}
	return flow.NewBatch(records, []flow.Part{{Partition: flow.Partition{Topic: "t"}, Next: int64(n), End: n}})
}

func (h *handled) checkOrder(t *testing.T, n, keys int) {
	t.Helper()
	total := 0
	for key, offsets := range h.calls {
		total += len(offsets)
		for i := 1; i < len(offsets); i++ {
			if offsets[i] <= offsets[i-1] {
				t.Errorf("key %s: offset %d after %d", key, offsets[i], offsets[i-1])
			}
		}
	}
	if total != n || len(h.calls) != keys {
		t.Errorf("%d records of %d keys handled, want %d of %d", total, len(h.calls), n, keys)
	}
}

func TestHandlerKeepsTheOrderOfEachKey(t *testing.T) {
	h := &handled{}
	w, _ := flow.Handler(8, h.handle).Writer(0)
	if err := w.Write(t.Context(), keyedBatch(1000, 37)); err != nil {
		t.Fatal(err)
	}
	h.checkOrder(t, 1000, 37)
}

// What was handled before a failure is not handled again; the failed record
// and those behind it with its key are, in order.
func TestHandlerRepeatsOnlyWhatIsNotDone(t *testing.T) {
	failures := 0
	h := &handled{fail: func(r *flow.Record, _ int) error {
		if r.Offset == 300 && failures < 3 {
			failures++
			return errors.New("not now")
		}
		return nil
	}}
	w, _ := flow.Handler(4, h.handle).Writer(0)
	b := keyedBatch(1000, 10)
	for range 3 {
		if err := w.Write(t.Context(), b); err == nil || flow.ClassOf(err) != flow.ClassUnknown {
			t.Fatalf("want an error without a class, got %v", err)
		}
		if got := len(h.calls["0"]); got != 30 {
			t.Fatalf("%d records with the key of the failed one are handled, want the 30 before it", got)
		}
	}
	if err := w.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	h.checkOrder(t, 1000, 10)
}

func TestHandlerNamesTheRecordThatItsFunctionRefuses(t *testing.T) {
	h := &handled{fail: func(r *flow.Record, _ int) error {
		if r.Offset == 7 {
			return &flow.RecordError{Class: "range", Err: fmt.Errorf("too much")}
		}
		return nil
	}}
	w, _ := flow.Handler(3, h.handle).Writer(0)
	b := keyedBatch(20, 20)
	err := w.Write(t.Context(), b)
	var data *flow.DataError
	if !errors.As(err, &data) || len(data.Rows) != 1 || data.Rows[0] != 7 {
		t.Fatalf("want a DataError for row 7, got %v", err)
	}
	b.Reject(7, flow.StageWrite, data.Err)
	if err := w.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	h.checkOrder(t, 19, 19)
}
