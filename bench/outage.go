package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The database stands still, or dies, while a flow loads a backlog.

// outageRig is a database server that may be stopped.
type outageRig struct {
	b       *Bench
	servers *Servers
	server  *postgresServer
	db      *Database
	topic   *Topic
}

func (b *Bench) outage(ctx context.Context) (err error) {
	r := &outageRig{b: b, servers: &Servers{}, topic: b.topic}
	defer r.servers.Stop()
	if r.server, err = r.servers.startPostgres(ctx, &b.ports, filepath.Join(b.dir, "outage")); err != nil {
		return err
	}
	if r.db, err = openDatabase(ctx, r.server.URL); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.db.Close(context.WithoutCancel(ctx))) }()
	// Enough for a flow to be at full speed before and after.
	const least = 160_000
	if b.topic.Records < least {
		if r.topic, err = b.newTopic(ctx, partitions); err != nil {
			return err
		}
		if err := r.topic.Fill(ctx, least, partitionOf); err != nil {
			return err
		}
	}
	const none, frozen, killed = "no outage", "stands still", "dies"
	side := func(name string, down func() error, up func(context.Context) error) Side {
		return Side{
			Name: name, Prepare: r.db.Reset,
			Run:    func(ctx context.Context) (Measurement, error) { return r.run(ctx, down, up) },
			Verify: func(ctx context.Context) error { return r.db.Verify(ctx, r.topic.Sums) },
		}
	}
	ms, err := alternate(ctx, b.out, []Side{
		side(none, nil, nil), side(frozen, r.freeze, r.thaw), side(killed, r.kill, r.revive),
	}, b.opts.Pairs)
	if err != nil {
		return err
	}
	const p = "outage"
	b.report.add(p, ms)
	for _, name := range []string{frozen, killed} {
		of := func(name, v string) []float64 { return bySide(ms, name, value(v)) }
		again := make([]float64, 0, b.opts.Pairs)
		for i, read := range bySide(ms, name, readMiB) {
			again = append(again, max(0, read-bySide(ms, none, readMiB)[i])/max(1, of(name, pauses)[i]))
		}
		b.report.add(p, nil,
			worst(figure(p, name+": back at full speed after", "s", Goal{AtMost: 2}, of(name, fullSpeed)...)),
			worst(figure(p, name+": first commit after", "s", Goal{}, of(name, firstAfter)...)),
			worst(figure(p, name+": bytes in the lanes at most", "MiB", Goal{AtMost: 32}, of(name, bufferedMiB)...)),
			worst(figure(p, name+": peak memory", "MiB", Goal{}, bySide(ms, name, peakMiB)...)),
			worst(figure(p, name+": rebalances", "", Goal{AtMost: 0.5}, of(name, rebalances)...)),
			worst(figure(p, name+": read again for each pause", "MiB", Goal{AtMost: 4}, again...)),
			figure(p, name+": pauses", "", Goal{}, of(name, pauses)...))
	}
	b.report.add(p, nil, worst(figure(p, none+": peak memory", "MiB", Goal{}, bySide(ms, none, peakMiB)...)))
	return nil
}

// The names of a run's values.
const (
	fullSpeed   = "full speed s"
	firstAfter  = "first commit s"
	bufferedMiB = "buffered MiB"
	rebalances  = "rebalances"
	pauses      = "pauses"
)

// run loads the topic. After a quarter of it the database goes down, and up
// again later.
func (r *outageRig) run(ctx context.Context, down func() error, up func(context.Context) error) (m Measurement, err error) {
	spec := r.db.intoTable("append", 0)
	spec.Topic = r.topic.Name
	f, err := r.b.penstock.Start(ctx, spec)
	if err != nil {
		return m, err
	}
	values, took, err := r.watch(ctx, f, down, up)
	usage, err := f.Finish(err)
	if err != nil {
		return m, err
	}
	m = measured(r.topic.Records, usage)
	m.Seconds, m.Values = took.Seconds(), values
	return m, nil
}

func (r *outageRig) watch(ctx context.Context, f *runningFlow, down func() error, up func(context.Context) error) (map[string]float64, time.Duration, error) {
	if err := f.Ready(ctx); err != nil {
		return nil, 0, err
	}
	var c curve
	total := int64(r.topic.Records)
	until := func(n int64) error {
		return f.Until(ctx, fmt.Sprintf("%d records to be written", n), 10*time.Millisecond, 5*time.Minute, func() (bool, error) {
			return c.look(ctx, f, n)
		})
	}
	if err := until(total / 4); err != nil {
		return nil, 0, err
	}
	sampler := startSampler(ctx, f)
	defer sampler.stop() //nolint:errcheck // what has gone wrong before says more
	values := map[string]float64{}
	if down != nil {
		before := c.rate()
		if err := down(); err != nil {
			return nil, 0, err
		}
		err := f.idle(ctx, r.b.opts.Outage)
		if err := errors.Join(err, up(ctx)); err != nil {
			return nil, 0, err
		}
		back := time.Now()
		if err := until(total); err != nil {
			return nil, 0, err
		}
		values[firstAfter], values[fullSpeed] = c.after(back, before)
	} else if err := until(total); err != nil {
		return nil, 0, err
	}
	took := c[len(c)-1].at.Sub(f.started)
	most, err := sampler.stop()
	values[bufferedMiB], values[rebalances], values[pauses] = most.buffered/(1<<20), most.rebalances, most.pauses
	return values, took, err
}

// curve is how far a flow was, when.
type curve []struct {
	at time.Time
	n  int64
}

// look adds where the flow is, and says whether it is at least at n.
func (c *curve) look(ctx context.Context, f *runningFlow, n int64) (bool, error) {
	now, err := f.Progress(ctx)
	if err == nil {
		*c = append(*c, struct {
			at time.Time
			n  int64
		}{time.Now(), now})
	}
	return now >= n, err
}

// rate is that of the whole curve, from the last moment without a record on.
func (c curve) rate() float64 {
	first := 0
	for first+1 < len(c) && c[first+1].n == 0 {
		first++
	}
	last := len(c) - 1
	return float64(c[last].n-c[first].n) / c[last].at.Sub(c[first].at).Seconds()
}

// after says how long after a moment the first records were committed, and from
// when on the flow wrote for a second, or to its end, at no less than 0.8 of a
// rate.
func (c curve) after(back time.Time, rate float64) (first, full float64) {
	const span, enough = time.Second, 0.8
	from := 0
	for from+1 < len(c) && c[from+1].at.Before(back) {
		from++
	}
	for i := from; i < len(c) && first == 0; i++ {
		if c[i].n > c[from].n {
			first = c[i].at.Sub(back).Seconds()
		}
	}
	for i := from; i < len(c); i++ {
		j := i
		for j+1 < len(c) && c[j].at.Sub(c[i].at) < span {
			j++
		}
		if j == i || float64(c[j].n-c[i].n)/c[j].at.Sub(c[i].at).Seconds() >= enough*rate {
			return first, max(0, c[i].at.Sub(back).Seconds())
		}
	}
	return first, c[len(c)-1].at.Sub(back).Seconds()
}

// sampler reads a flow's metrics while it runs.
type sampler struct {
	stop func() (sampled, error)
}

// sampled is the most that was seen of the bytes in the lanes, the rebalances since
// the beginning, and how often partitions were paused.
type sampled struct{ buffered, rebalances, pauses float64 }

func startSampler(ctx context.Context, f *runningFlow) *sampler {
	var most sampled
	var failed error
	first, paused := -1.0, 0.0
	sample := func() {
		all, err := metrics(ctx, f.admin)
		if err != nil {
			failed = err
			return
		}
		if first < 0 {
			first = all["penstock_rebalances_total"]
		}
		most.buffered = max(most.buffered, all["penstock_buffered_bytes"])
		most.rebalances = all["penstock_rebalances_total"] - first
		most.pauses += max(0, all["penstock_partition_paused"]-paused)
		paused = all["penstock_partition_paused"]
	}
	sample()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				sample()
			case <-done:
				return
			}
		}
	})
	return &sampler{stop: sync.OnceValues(func() (sampled, error) {
		close(done)
		wg.Wait()
		return most, failed
	})}
}

// signal sends a signal to all processes of the server: first to those of its
// children when they go on, last when they stop, so that none is forked between.
func (r *outageRig) signal(sig syscall.Signal) error {
	if r.db.server == 0 {
		return errors.New("the processes of the database server are not known")
	}
	children, _ := childrenOf(r.db.server)
	pids := strings.Fields(children)
	if own := strconv.Itoa(r.db.server); sig == syscall.SIGSTOP {
		pids = append([]string{own}, pids...)
	} else {
		pids = append(pids, own)
	}
	var failed error
	for _, p := range pids {
		pid, err := strconv.Atoi(p)
		if err == nil {
			err = syscall.Kill(pid, sig)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			failed = errors.Join(failed, fmt.Errorf("%s to process %s: %w", sig, p, err))
		}
	}
	return failed
}

func (r *outageRig) freeze() error { return r.signal(syscall.SIGSTOP) }

func (r *outageRig) thaw(context.Context) error { return r.signal(syscall.SIGCONT) }

// kill shuts the server down at once, as a crash does: it recovers at its next
// start.
func (r *outageRig) kill() error {
	last := len(r.servers.own) - 1
	_, _ = r.servers.own[last].Stop(syscall.SIGQUIT) // it does not call that a success
	r.servers.own = r.servers.own[:last]
	return nil
}

// revive returns when the server takes connections.
func (r *outageRig) revive(ctx context.Context) error {
	if err := r.servers.runPostgres(ctx, r.server); err != nil {
		return err
	}
	return r.db.Connect(ctx)
}
