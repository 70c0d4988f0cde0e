package flowtest

import (
	"context"
	"errors"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

var tablePartition = flow.Partition{Topic: "t"}

// tableProcess is a sink on a table that has claimed partition 0.
type tableProcess struct {
	sink   *TableSink
	writer flow.Writer
	at     flow.Checkpoint
}

func onTable(t *testing.T, table *Table) *tableProcess {
	t.Helper()
	s := table.Sink()
	must(t, s.Open(t.Context(), flow.Setup{Flow: "f", Lanes: 1}), "Open")
	must(t, s.Init(t.Context(), func(context.Context) ([]flow.Position, error) {
		return []flow.Position{{Partition: tablePartition}}, nil
	}), "Init")
	got, err := s.Claim(t.Context(), 0, []flow.Partition{tablePartition})
	must(t, err, "Claim")
	w, err := s.Writer(0)
	must(t, err, "Writer")
	return &tableProcess{sink: s, writer: w, at: got[0]}
}

// batch makes a batch of n records that continues at the claimed position.
func (p *tableProcess) batch(n int) *flow.Batch {
	var records []flow.Record
	for i := range n {
		records = append(records, flow.Record{Value: []byte("v"), Offset: p.at.Offset + int64(i)})
	}
	return flow.NewBatch(records, []flow.Part{{
		Partition: tablePartition, From: p.at.Offset, Next: p.at.Offset + int64(n), Owner: p.at.Owner, End: n,
	}})
}

func wantRows(t *testing.T, table *Table, rows int, next int64) {
	t.Helper()
	if n, _ := table.Len(); n != rows {
		t.Errorf("%d rows, want %d", n, rows)
	}
	if at := table.Checkpoint("f", tablePartition); at.Offset != next {
		t.Errorf("the position is %d, want %d", at.Offset, next)
	}
}

func TestTableLosesAnswers(t *testing.T) {
	for _, c := range []struct {
		point Point
		rows  int
	}{{LostCommit, 3}, {LostRollback, 0}} {
		table := NewTable(TableOptions{})
		p := onTable(t, table)
		table.Inject(Fault{At: c.point})
		b := p.batch(3)
		if err := p.writer.Write(t.Context(), b); !flow.IsTransient(err) {
			t.Fatalf("a lost answer returned %v, want a transient error", err)
		}
		wantRows(t, table, c.rows, int64(c.rows))
		must(t, p.writer.Write(t.Context(), b), "the same batch again")
		wantRows(t, table, 3, 3)
		if err := p.writer.Write(t.Context(), b); flow.ClassOf(err) != flow.ClassFenced {
			t.Fatalf("a third time returned %v, want fenced", err)
		}
	}

	// Without positions nobody can tell: doubled.
	table := NewTable(TableOptions{})
	s := table.PlainSink()
	w, err := s.Writer(0)
	must(t, err, "Writer")
	table.Inject(Fault{At: LostCommit})
	b := flow.NewBatch([]flow.Record{{}}, []flow.Part{{Partition: tablePartition, Next: 1, End: 1}})
	if err := w.Write(t.Context(), b); !flow.IsTransient(err) {
		t.Fatalf("a lost answer returned %v, want a transient error", err)
	}
	must(t, w.Write(t.Context(), b), "the same batch again")
	if n, _ := table.Len(); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

// A heir removes a predecessor that is frozen with its locks held; one that is
// frozen before its transaction is fenced when it thaws.
func TestTableFencesTheFrozen(t *testing.T) {
	for _, point := range []Point{BeforeBegin, InTransaction, None} {
		table := NewTable(TableOptions{})
		old := onTable(t, table)
		thaw := make(chan struct{})
		frozen := make(chan struct{})
		table.Intercept(func(a Attempt) Fault {
			if a.N > 0 {
				return Fault{}
			}
			close(frozen)
			if point == BeforeBegin {
				return Fault{Wait: thaw}
			}
			return Fault{At: point, Wait: thaw}
		})
		done := make(chan error, 1)
		go func() { done <- old.writer.Write(t.Context(), old.batch(3)) }()
		<-frozen
		if point == InTransaction {
			eventually(t, soon, "the row is locked", func() bool {
				table.mu.Lock()
				defer table.mu.Unlock()
				return len(table.open) > 0
			})
		}
		heir := onTable(t, table)
		must(t, heir.writer.Write(t.Context(), heir.batch(2)), "Write of the heir")
		close(thaw)
		want := flow.ClassFenced
		if point == InTransaction {
			want = flow.ClassTransient // its connection is gone; it learns the rest at the next write
		}
		if err := <-done; flow.ClassOf(err) != want {
			t.Errorf("point %d: the thawed write returned %v, want class %s", point, err, want)
		}
		if err := old.writer.Write(t.Context(), old.batch(3)); flow.ClassOf(err) != flow.ClassFenced {
			t.Errorf("point %d: the next write of the predecessor returned %v, want fenced", point, err)
		}
		wantRows(t, table, 2, 2)
		if table.Fenced() == 0 {
			t.Errorf("point %d: no refusal was counted", point)
		}
	}
}

func TestTableFaults(t *testing.T) {
	table := NewTable(TableOptions{})
	p := onTable(t, table)
	cause := errors.New("cause")
	table.Inject(Fault{At: BeforeBegin, Err: cause}, Fault{At: InTransaction, Err: flow.Fatal(cause)}, Fault{At: InTransaction})
	for _, want := range []flow.Class{flow.ClassUnknown, flow.ClassFatal, flow.ClassTransient} {
		if err := p.writer.Write(t.Context(), p.batch(3)); err == nil || flow.ClassOf(err) != want {
			t.Errorf("have %v, want class %s", err, want)
		}
		wantRows(t, table, 0, 0)
	}
	must(t, p.writer.Write(t.Context(), p.batch(3)), "Write after the faults")
	wantRows(t, table, 3, 3)
}

// A restore moves data and positions back together, and fences who goes on.
func TestTableRestore(t *testing.T) {
	table := NewTable(TableOptions{})
	p := onTable(t, table)
	must(t, p.writer.Write(t.Context(), p.batch(3)), "Write")
	restore := table.Snapshot()
	p.at.Offset = 3
	must(t, p.writer.Write(t.Context(), p.batch(4)), "Write")
	wantRows(t, table, 7, 7)
	restore()
	wantRows(t, table, 3, 3)
	p.at.Offset = 7
	if err := p.writer.Write(t.Context(), p.batch(1)); flow.ClassOf(err) != flow.ClassFenced {
		t.Errorf("after a restore: %v, want fenced", err)
	}
	table.SetCheckpoint("f", flow.Checkpoint{Position: flow.Position{Partition: tablePartition, Offset: -1}})
	if err := p.writer.Write(t.Context(), p.batch(1)); flow.ClassOf(err) != flow.ClassFenced {
		t.Errorf("without a row: %v, want fenced", err)
	}
}

func TestAudit(t *testing.T) {
	log := NewLog()
	log.Create("t", 1)
	log.Append("t", 0, flow.Record{Value: []byte("a")}, flow.Record{Value: []byte("b")}, flow.Record{Value: []byte("c")})
	row := func(i int) Row { return Row{tablePartition, log.Records("t", 0)[i]} }
	dead := func(i int) DeadRow {
		r := row(i).Record
		return DeadRow{DeadLetter: flow.DeadLetter{Partition: tablePartition, Record: &r}}
	}
	altered := row(1)
	altered.Value = []byte("B")
	unknown := row(1)
	unknown.Offset = 9
	for name, c := range map[string]struct {
		rows        []Row
		dead        []DeadRow
		once, least bool
	}{
		"all rows":     {[]Row{row(0), row(1), row(2)}, nil, true, true},
		"one dead":     {[]Row{row(0), row(2)}, []DeadRow{dead(1)}, true, true},
		"lost":         {[]Row{row(0), row(2)}, nil, false, false},
		"doubled":      {[]Row{row(0), row(1), row(0), row(1), row(2)}, nil, false, true},
		"row and dead": {[]Row{row(0), row(1), row(2)}, []DeadRow{dead(1)}, false, true},
		"reordered":    {[]Row{row(1), row(0), row(2)}, nil, false, false},
		"altered":      {[]Row{row(0), altered, row(2)}, nil, false, false},
		"unknown":      {[]Row{row(0), row(1), row(2), unknown}, nil, false, false},
	} {
		r := Audit(log.All(), c.rows, c.dead)
		if err := r.ExactlyOnce(); (err == nil) != c.once {
			t.Errorf("%s, exactly once: %v", name, err)
		}
		if err := r.AtLeastOnce(); (err == nil) != c.least {
			t.Errorf("%s, at least once: %v", name, err)
		}
	}
}
