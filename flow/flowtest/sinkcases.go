package flowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func describe(it Item) string {
	return fmt.Sprintf("{key %q, seq %d, payload %s}", it.Key, it.Seq, show([]byte(it.Payload)))
}

func lastOf(its []Item) string {
	if len(its) == 0 {
		return "none"
	}
	return describe(its[len(its)-1])
}

func opensOnAnEmptyTarget(c *sinkCase) {
	c.start()
	c.rows()
	if c.StoresDeadLetters {
		if dead := c.target.Dead(c); len(dead) != 0 {
			c.Fatalf("a new target holds %d dead letters", len(dead))
		}
	}
}

func writesInOrder(c *sinkCase) {
	p := c.start()
	var want []Item
	for n := range 20 {
		some := items(n*50, 50)
		p.write(piece{partition: 0, items: some, gap: int64(n % 3)})
		want = append(want, some...)
		if n%7 == 0 {
			c.rows(want) // durable when Write returns, not later
		}
	}
	c.rows(want)
}

// emptyBatch moves positions where there is nothing to write.
func emptyBatch(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 1, gap: 7})
	p.write(piece{partition: 1, gap: 2}, piece{partition: 0, items: items(0, 3)}, piece{partition: 2, gap: 5})
	p.write(piece{partition: 1, items: items(3, 2)})
	c.rows(items(0, 5))
	if p.cp == nil {
		return
	}
	for id, want := range []int64{3, 11, 5, 0} {
		if got := p.stored(int32(id))[0].Offset; got != want {
			c.Errorf("the position of partition %d is %d, want %d", id, got, want)
		}
	}
}

func manyPartitions(c *sinkCase) {
	p := c.start()
	var want []Item
	for n := range 5 {
		var pieces []piece
		for id := range int32(sinkPartitions) {
			some := items(n*400+int(id)*100, 100)
			pieces = append(pieces, piece{partition: id, items: some})
			want = append(want, some...)
		}
		p.write(pieces...)
	}
	c.rows(want)
}

// badRow writes a batch with one row that the target refuses in its middle.
func badRow(c *sinkCase) {
	if c.target.Poison == nil {
		c.Log("nothing to test: a target that takes everything has nothing to refuse")
		return
	}
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 10)})
	some := items(10, 101)
	const bad = 57
	some[bad] = c.target.Poison(some[bad])
	b := p.batch(piece{partition: 0, items: some[:40]}, piece{partition: 1, items: some[40:]})
	good := slices.Delete(slices.Clone(some), bad, bad+1)

	err := p.w.Write(c.ctx, b)
	if err == nil {
		if !b.Rejected(bad) || b.Rows() != len(some)-1 {
			c.Fatalf("Write returned nil for a batch with a bad row and rejected %d rows, want row %d rejected alone", len(some)-b.Rows(), bad)
		}
	} else {
		var data *flow.DataError
		if !errors.As(err, &data) || flow.ClassOf(err) != flow.ClassData {
			c.Fatalf("a bad row made Write return an error of class %s, want a *flow.DataError: %v", flow.ClassOf(err), err)
		}
		if !slices.Equal(data.Rows, []int{bad}) && (c.LocatesBadRows || len(data.Rows) > 0) {
			c.Fatalf("the data error names rows %v, want %d: %v", data.Rows, bad, err)
		}
		if !c.Partial {
			c.rows(items(0, 10)) // all or nothing
		}
		if p.cp != nil {
			if got := p.stored(0, 1); got[0].Offset != 10 || got[1].Offset != 0 {
				c.Fatalf("after a data error the positions are %d and %d, want 10 and 0", got[0].Offset, got[1].Offset)
			}
		}
		b.Reject(bad, flow.StageWrite, data.Err)
		if err := p.w.Write(c.ctx, b); err != nil {
			c.Fatalf("the same batch without its bad row: %v", err)
		}
	}
	p.wrote(b)
	if !c.Partial {
		c.rows(items(0, 10), good)
	}
	p.write(piece{partition: 1, items: items(200, 3)}) // the writer goes on
	if c.StoresDeadLetters {
		dead := c.target.Dead(c)
		if len(dead) != 1 || dead[0].Partition != sinkPartition(1) || dead[0].Record.Offset != bad-40 {
			c.Fatalf("want the bad row as the only dead letter, have %d", len(dead))
		}
	}
}

func rejectedRows(c *sinkCase) {
	p := c.start()
	some := items(0, 30)
	b := p.batch(piece{partition: 0, items: some[:15]}, piece{partition: 1, items: some[15:]})
	var want []Item
	for i := range some {
		// the first, the last, two beside each other, the ends of the parts
		if slices.Contains([]int{0, 7, 8, 14, 15, 29}, i) {
			b.Reject(i, flow.StageTransform, errors.New("not wanted"))
			continue
		}
		want = append(want, some[i])
	}
	must(c, p.w.Write(c.ctx, b), "Write")
	p.wrote(b)
	c.rows(want)

	b = p.batch(piece{partition: 0, items: items(30, 3)})
	for i := range 3 {
		b.Reject(i, flow.StageTransform, errors.New("not wanted"))
	}
	must(c, p.w.Write(c.ctx, b), "Write of a batch whose rows are all rejected")
	p.wrote(b)
	c.rows(want)
	if p.cp != nil {
		if got := p.stored(0)[0].Offset; got != 18 {
			c.Fatalf("rejected rows move the position as well: it is %d, want 18", got)
		}
	}
}

func deadLettersAreWhole(c *sinkCase) {
	p := c.start()
	b := p.batch(piece{partition: 2, items: items(0, 6)})
	odd := &b.Records[1] // whatever cannot be written must be storable
	odd.Key, odd.Value = nil, []byte("\xff\x00 not text")
	odd.Headers = []flow.Header{{Key: "h", Value: []byte{0, 255}}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}}
	b.Records[3].Value = nil
	b.Records[4].Value = []byte{}
	b.Records[4].Headers = nil
	why := map[int]flow.Reject{
		1: {Stage: flow.StageDecode, Err: &flow.RecordError{Class: "malformed", Column: "payload", Err: errors.New("invalid \x00 byte \xff in it")}},
		3: {Stage: flow.StageTransform, Err: &flow.RecordError{Class: "tombstone", Err: errors.New("no value")}},
		4: {Stage: flow.StageWrite, Err: errors.New("refused")},
	}
	for _, i := range []int{4, 1, 3} {
		b.Reject(i, why[i].Stage, why[i].Err)
	}
	want := b.DeadLetters()
	must(c, p.w.Write(c.ctx, b), "Write")
	got := c.target.Dead(c)
	if len(got) != len(want) {
		c.Fatalf("%d dead letters are stored, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		switch {
		case g.Partition != w.Partition || g.TopicID != w.TopicID || g.Record.Offset != w.Record.Offset:
			c.Errorf("dead letter %d is of %s (topic id %q) at %d, want %s (%q) at %d",
				i, g.Partition, g.TopicID, g.Record.Offset, w.Partition, w.TopicID, w.Record.Offset)
		case g.Stage != w.Stage || g.Class != w.Class || g.Column != w.Column:
			c.Errorf("dead letter %d: stage %q, class %q, column %q; want %q, %q, %q", i, g.Stage, g.Class, g.Column, w.Stage, w.Class, w.Column)
		case g.Message == "" || i > 0 && g.Message != w.Message: // that of 0 may be cleaned
			c.Errorf("dead letter %d: message %q, want %q", i, g.Message, w.Message)
		}
		if diff := DiffRecord(w.Record, g.Record); diff != "" {
			c.Errorf("dead letter %d: %s", i, diff)
		}
	}
	all := items(0, 6)
	c.rows([]Item{all[0], all[2], all[5]})
}

// deadLettersRollBack: no dead letter without its batch.
func deadLettersRollBack(c *sinkCase) {
	p := c.start()
	stale := p.owner[0]
	p.claim(0)
	p.owner[0] = stale
	b := p.batch(piece{partition: 0, items: items(0, 3)})
	b.Reject(1, flow.StageDecode, errors.New("bad"))
	wantClass(c, p.w.Write(c.ctx, b), flow.ClassFenced)
	if dead := c.target.Dead(c); len(dead) != 0 {
		c.Fatalf("a refused write left %d dead letters", len(dead))
	}
	c.rows()
}

func upsertLastWins(c *sinkCase) {
	p := c.start()
	first := items(0, 5)
	p.write(piece{partition: 0, items: first})
	again := []Item{
		{Key: "k1", Seq: 101, Payload: "a"},
		{Key: "new", Seq: 102, Payload: "b"},
		{Key: "k1", Seq: 103, Payload: "c"},
		{Key: "new", Seq: 104, Payload: "d"},
	}
	p.write(piece{partition: 0, items: again})
	c.sameSet([]Item{first[0], again[2], first[2], first[3], first[4], again[3]})
}

func tombstoneDeletes(c *sinkCase) {
	p := c.start()
	first := items(0, 5)
	p.write(piece{partition: 0, items: first})
	// One that is there, one that is not, one made and deleted in the batch,
	// one deleted and made again.
	p.write(piece{partition: 0, items: []Item{
		{Key: "k1"}, {Key: "absent"}, {Key: "brief", Seq: 200, Payload: "x"}, {Key: "brief"}, {Key: "k2"}, {Key: "k2", Seq: 201, Payload: "y"},
	}, tombstone: []int{0, 1, 3, 4}})
	c.sameSet([]Item{first[0], {Key: "k2", Seq: 201, Payload: "y"}, first[3], first[4]})
}

// sameSet compares without order: an updated row may move.
func (c *sinkCase) sameSet(want []Item) {
	c.Helper()
	loose := *c
	loose.Unordered = true
	loose.rows(want)
}

func bigBatch(c *sinkCase) {
	p := c.start()
	all := items(0, 20_000)
	p.write(piece{partition: 0, items: all[:12_000]}, piece{partition: 1, items: all[12_000:]})
	p.write(piece{partition: 0, items: items(20_000, 1)})
	c.rows(all, items(20_000, 1))
}

func bigRecord(c *sinkCase) {
	p := c.start()
	size := c.MaxRecord
	if size == 0 {
		size = 5_000_000
	}
	some := items(0, 5)
	some[2].Payload = strings.Repeat("0123456789", size/10)
	p.write(piece{partition: 0, items: some})
	c.rows(some)
}

// oddText writes text that naive encoders get wrong.
func oddText(c *sinkCase) {
	p := c.start()
	some := items(0, 8)
	for i, s := range []string{"", "\\N", "\\.", "a\tb\nc\rd", `'"\;--`, "日本語 🚰", "\u2028\ufeff\x01\x7f", "NULL"} {
		some[i].Payload = s
	}
	p.write(piece{partition: 0, items: some})
	c.rows(some)
}

func cancelledBeforeWrite(c *sinkCase) {
	p := c.start()
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	b := p.batch(piece{partition: 0, items: items(0, 10)})
	err := within(c, soon, "Write whose context has ended", func() error { return p.w.Write(ctx, b) })
	p.settle(b, err, items(0, 10))
}

// cancelledDuringWrite ends the context at many moments of a write. Whatever Write
// returns, the same batch can be written next, and is there once.
func cancelledDuringWrite(c *sinkCase) {
	p := c.start()
	const n = 1_000
	var want []Item
	for i := range 10 {
		some := items(i*n, n)
		b := p.batch(piece{partition: 0, items: some[:n/2]}, piece{partition: 1, items: some[n/2:]})
		ctx, cancel := context.WithTimeout(c.ctx, time.Duration(i*i)*200*time.Microsecond)
		err := within(c, soon, "Write whose context has ended", func() error { return p.w.Write(ctx, b) })
		cancel()
		want = append(want, some...)
		p.settle(b, err, want)
	}
}

// settle brings a batch to its end whose Write returned err, and checks that
// all or nothing was written before. want is what must be durable at the end.
func (p *process) settle(b *flow.Batch, err error, want []Item) {
	c := p.c
	c.Helper()
	if err != nil {
		switch class := flow.ClassOf(err); class {
		case flow.ClassUnknown, flow.ClassTransient:
		case flow.ClassData, flow.ClassFenced, flow.ClassFatal:
			c.Fatalf("an ended context or a lost connection is not an error of class %s: %v", class, err)
		}
		rows, before := len(c.target.Rows(c)), len(want)-b.Rows()
		if rows != before && rows != len(want) && !c.Partial {
			c.Fatalf("a write that failed (%v) left %d of %d rows: all or none", err, rows-before, b.Rows())
		}
		if err := p.retry(b); err != nil {
			c.Fatalf("the same batch again: %v", err)
		}
	}
	p.wrote(b)
	if c.ExactlyOnce || err == nil {
		c.rows(want)
	}
}

// retry writes the batch until that succeeds, as the engine does.
func (p *process) retry(b *flow.Batch) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.w.Write(p.c.ctx, b)
		switch {
		case err == nil:
			return nil
		case flow.ClassOf(err) != flow.ClassTransient && flow.ClassOf(err) != flow.ClassUnknown, p.c.ctx.Err() != nil:
			return err
		}
		select {
		case <-tick.C:
		case <-p.c.ctx.Done():
		}
	}
}

func wantClass(c *sinkCase, err error, class flow.Class) {
	c.Helper()
	if err == nil {
		c.Fatalf("want an error of class %s, have none", class)
	}
	if got := flow.ClassOf(err); got != class {
		c.Fatalf("want an error of class %s, have one of class %s: %v", class, got, err)
	}
}
