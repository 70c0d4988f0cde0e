package flowtest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/penstockdev/penstock/flow"
)

// tableTx is a transaction on a Table. It holds the locks of the checkpoint
// rows that it moves until it ends. Its fields are guarded by Table.mu.
type tableTx struct {
	table  *Table
	writer *tableWriter
	parts  []flow.Part
	locked []*checkpointRow
	rows   []Row
	dead   []DeadRow
	ended  bool
	killed bool
}

// begin compares and locks the checkpoint rows of the batch. It waits for
// other transactions that hold one.
func (t *Table) begin(ctx context.Context, w *tableWriter, b *flow.Batch) (*tableTx, error) {
	tx := &tableTx{table: t, writer: w}
	if w.positions {
		tx.parts = slices.Clone(b.Parts)
	}
	for {
		t.mu.Lock()
		if err := t.check(ctx); err != nil {
			t.mu.Unlock()
			return nil, err
		}
		wait, err := tx.swap()
		if err == nil && !wait {
			t.open[tx] = struct{}{}
		}
		changed := t.changed
		t.mu.Unlock()
		if err != nil || !wait {
			return tx, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a row lock: %w", ctx.Err())
		}
	}
}

// swap compares offset and owner of all rows, and locks them if all are as
// expected. It asks to wait if another transaction holds one of them.
func (tx *tableTx) swap() (wait bool, err error) {
	f := tx.table.flow(tx.writer.setup.Flow)
	var wrong []flow.Partition
	var rows []*checkpointRow
	for _, p := range tx.parts {
		row := f.checkpoints[p.Partition]
		switch {
		case row == nil:
			wrong = append(wrong, p.Partition)
		case row.lock != nil:
			return true, nil
		case row.Offset != p.From || row.Owner != p.Owner:
			wrong = append(wrong, p.Partition)
		default:
			rows = append(rows, row)
		}
	}
	if len(wrong) > 0 {
		tx.table.fenced++
		return false, &flow.FencedError{Partitions: wrong}
	}
	for _, row := range rows {
		row.lock = tx
	}
	tx.locked = rows
	return false, nil
}

// insert sends the rows and the dead letters.
func (tx *tableTx) insert(b *flow.Batch) error {
	partition := 0
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		r := &b.Records[i]
		if err := tx.table.opts.Refuse(r); err != nil {
			refused := &flow.DataError{Rows: []int{i}, Err: err}
			if tx.table.opts.Vague {
				refused.Rows = nil
			}
			return refused
		}
		for i < b.Parts[partition].First || i >= b.Parts[partition].End {
			partition++
		}
		tx.rows = append(tx.rows, Row{Partition: b.Parts[partition].Partition, Record: CloneRecord(r)})
	}
	if !tx.table.opts.NoDeadLetters {
		for _, d := range b.DeadLetters() {
			r := CloneRecord(d.Record)
			d.Record = &r
			tx.dead = append(tx.dead, DeadRow{DeadLetter: d, Flow: tx.writer.setup.Flow})
		}
	}
	return nil
}

// commit makes everything durable at once.
func (tx *tableTx) commit(ctx context.Context) error {
	t := tx.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if tx.killed {
		return errKilled
	}
	if err := t.check(ctx); err != nil {
		return err
	}
	if t.opts.Upsert {
		t.upsert(tx.rows)
	} else {
		t.rows = append(t.rows, tx.rows...)
	}
	t.dead = append(t.dead, tx.dead...)
	for i, row := range tx.locked {
		p := &tx.parts[i]
		row.Offset, row.TopicID, row.LeaderEpoch = p.Next, p.TopicID, p.LeaderEpoch
	}
	tx.end()
	return nil
}

// upsert applies rows in order: the last of a key wins.
func (t *Table) upsert(rows []Row) {
	at := make(map[string]int, len(t.rows))
	for i := range t.rows {
		at[string(t.rows[i].Key)] = i
	}
	gone := map[int]bool{}
	for _, r := range rows {
		i, ok := at[string(r.Key)]
		switch {
		case r.Value == nil && ok:
			gone[i] = true
			delete(at, string(r.Key))
		case r.Value == nil:
		case ok:
			t.rows[i] = r
		default:
			at[string(r.Key)] = len(t.rows)
			t.rows = append(t.rows, r)
		}
	}
	for _, i := range slices.Backward(slices.Sorted(maps.Keys(gone))) {
		t.rows = slices.Delete(t.rows, i, i+1)
	}
}

// rollback ends the transaction without a trace. After commit it does nothing.
func (tx *tableTx) rollback() {
	tx.table.mu.Lock()
	defer tx.table.mu.Unlock()
	tx.end()
}

// kill ends the transaction from outside: its writer finds out at COMMIT. The
// lock is held.
func (tx *tableTx) kill() {
	tx.killed = true
	tx.end()
}

// end frees the locks. The lock of the table is held.
func (tx *tableTx) end() {
	if tx.ended {
		return
	}
	tx.ended = true
	delete(tx.table.open, tx)
	for _, row := range tx.locked {
		row.lock = nil
	}
	tx.table.signal()
}
