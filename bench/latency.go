package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// End to end: from the broker's acknowledgement of a record to its row being
// visible to another connection.

func (b *Bench) latency(ctx context.Context) error {
	const perSecond, name = 10_000, "10,000 records/s"
	side := b.latencySide(name, perSecond, b.intoTable("append", 0))
	ms, err := alternate(ctx, b.out, []Side{side}, b.opts.Pairs)
	if err != nil {
		return err
	}
	const p = "latency"
	b.report.add(p, ms,
		figure(p, "acknowledged to visible, p50, "+name, "ms", Goal{AtMost: 15}, bySide(ms, name, value("p50 ms"))...),
		figure(p, "acknowledged to visible, p99, "+name, "ms", Goal{AtMost: 60}, bySide(ms, name, value("p99 ms"))...),
		figure(p, "acknowledged to visible, largest, "+name, "ms", Goal{}, bySide(ms, name, value("max ms"))...),
		figure(p, "CPU, "+name, "s/million", Goal{}, bySide(ms, name, cpu)...))
	return nil
}

// latencySide loads a new topic steadily while a flow writes it to the table.
func (b *Bench) latencySide(name string, perSecond int, spec flowSpec) Side {
	length, warmUp := 20*time.Second, 3*time.Second
	if b.opts.Quick {
		length, warmUp = time.Second, 200*time.Millisecond
	}
	return Side{
		Name: name, Prepare: b.db.Reset, Server: b.db.CPU,
		Run: func(ctx context.Context) (Measurement, error) {
			topic, err := b.newTopic(ctx, partitions)
			if err != nil {
				return Measurement{}, err
			}
			spec.Topic = topic.Name
			f, err := b.penstock.Start(ctx, spec)
			if err != nil {
				return Measurement{}, err
			}
			m, err := b.measureLatency(ctx, f, &feed{topic: topic}, perSecond, length, warmUp)
			usage, err := f.Finish(err)
			m.CPU, m.Peak = usage.CPU.Seconds()/float64(max(1, m.Records))*1e6, usage.Peak
			return m, err
		},
		Verify: func(ctx context.Context) error { return b.db.Verify(ctx, b.topics[len(b.topics)-1].Sums) },
	}
}

func (b *Bench) measureLatency(ctx context.Context, f *runningFlow, load *feed, perSecond int, length, warmUp time.Duration) (m Measurement, err error) {
	if err := f.Ready(ctx); err != nil {
		return m, err
	}
	w, err := newWatcher(ctx, b.db.URL, f.Name)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, w.conn.Close(context.WithoutCancel(ctx))) }()
	produced := make(chan error, 1)
	began := time.Now()
	go func() { produced <- load.run(ctx, perSecond, length) }()
	// The row of a record that is never visible is an error, not a latency.
	total := int64(length.Seconds() * float64(perSecond))
	err = f.Until(ctx, "all rows to be visible", time.Millisecond, length+30*time.Second, func() (bool, error) {
		select {
		case err := <-produced:
			if err != nil {
				return false, err
			}
			produced <- nil
		default:
		}
		n, err := w.look(ctx)
		return n >= total, err
	})
	if err != nil {
		return m, err
	}
	if err := <-produced; err != nil {
		return m, err
	}
	ms := w.latencies(load, began.Add(warmUp))
	if len(ms) == 0 {
		return m, errors.New("nothing was produced after the warm-up")
	}
	return Measurement{
		Records: int(total), Seconds: time.Since(began).Seconds(),
		Values: map[string]float64{"p50 ms": quantile(ms, 0.5), "p99 ms": quantile(ms, 0.99), "max ms": quantile(ms, 1)},
	}, nil
}

// watcher sees from a connection of its own which rows are committed. The
// checkpoint's rows are changed in the transaction of the data, so they are
// visible at the same moment, and cost less to look at; now and then the newest
// row itself is looked for. (The server's own commit timestamps would
// flatter: they are taken before the log is flushed.)
type watcher struct {
	conn  *pgx.Conn
	flow  string
	g     *generator
	looks int
	next  [partitions]int64
	seen  [partitions][]sighting
}

// sighting is when everything below an offset was visible.
type sighting struct {
	next int64
	at   time.Time
}

func newWatcher(ctx context.Context, url, flow string) (*watcher, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	return &watcher{conn: conn, flow: flow, g: newGenerator()}, nil
}

// look notes what is visible now, and returns how many records that is.
func (w *watcher) look(ctx context.Context) (total int64, err error) {
	rows, err := w.conn.Query(ctx, "SELECT partition, next_offset FROM penstock_checkpoint WHERE flow = $1", w.flow)
	if err != nil {
		return 0, err
	}
	next := w.next
	var partition int32
	var offset int64
	if _, err := pgx.ForEachRow(rows, []any{&partition, &offset}, func() error {
		next[partition] = offset
		return nil
	}); err != nil {
		return 0, err
	}
	at := time.Now()
	newest := -1
	for p := range next {
		if next[p] > w.next[p] {
			w.seen[p] = append(w.seen[p], sighting{next[p], at})
			newest = indexOf(int32(p), next[p]-1)
		}
		total += next[p]
	}
	w.next = next
	if w.looks++; newest >= 0 && w.looks%64 == 0 {
		err = w.check(ctx, newest)
	}
	return total, err
}

// check looks for the row of record i.
func (w *watcher) check(ctx context.Context, i int) error {
	row, _ := w.g.head(i)
	var found bool
	err := w.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+" WHERE device_id = $1 AND seq = $2)", row.Device, row.Seq).Scan(&found)
	if err == nil && !found {
		err = fmt.Errorf("the checkpoint has passed record %d, whose row is not visible", i)
	}
	return err
}

// latencies are those of all records acknowledged from a moment on, in
// milliseconds and sorted. What was visible before the producer heard of its
// acknowledgement took no time.
func (w *watcher) latencies(load *feed, from time.Time) []float64 {
	load.mu.Lock()
	defer load.mu.Unlock()
	var out []float64
	for p := range w.seen {
		offset := 0
		for _, s := range w.seen[p] {
			for ; offset < int(s.next); offset++ {
				if acked := load.acked[p][offset]; acked.After(from) {
					out = append(out, max(0, s.at.Sub(acked).Seconds()*1e3))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}
