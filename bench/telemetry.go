package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What metrics and traces cost a flow that loads a backlog. Both sides read the same
// records, each of which names a sampled span. On one of them Prometheus asks every second, 15 times
// as often as it does by default, and every batch becomes three spans with links.
//
// Counting itself goes on without anybody who asks, so it is on both sides: a few dozen
// nanoseconds for each counter and batch, which no comparison of processes would show.

func (b *Bench) telemetry(ctx context.Context) (err error) {
	topic, err := b.newTopic(ctx, partitions)
	if err != nil {
		return err
	}
	client, err := topic.producer(kgo.WithHooks(spanOfRecord{}))
	if err != nil {
		return err
	}
	err = topic.fill(ctx, client, b.opts.Records, partitionOf)
	client.Close()
	if err != nil {
		return err
	}
	collector, err := startCollector(ctx, &b.ports)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, collector.Close()) }()

	const off, on = "no traces, nobody asks", "traces and metrics"
	side := func(name string, env []string, asked bool) Side {
		return Side{
			Name: name, Prepare: b.db.Reset, Server: b.db.CPU,
			Run: func(ctx context.Context) (Measurement, error) {
				spec := b.intoTable("append", 2)
				spec.Env = append(spec.Env, env...)
				return b.penstock.runAsked(ctx, topic, spec, asked)
			},
			Verify: func(ctx context.Context) error { return b.db.Verify(ctx, topic.Sums) },
		}
	}
	ms, err := alternate(ctx, b.out, []Side{
		side(off, []string{"OTEL_SDK_DISABLED=true"}, false),
		side(on, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_TRACES_SAMPLER=always_on"}, true),
	}, b.opts.Pairs)
	if err != nil {
		return err
	}
	if collector.bytes.Load() == 0 {
		return errors.New("no span has arrived: what was measured is not what it is called")
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	const p = "telemetry"
	b.report.add(p, ms,
		figure(p, "rate with it to without", "×", Goal{AtLeast: 0.97}, paired(of(on, readyRate), of(off, readyRate))...),
		figure(p, "CPU with it to without", "×", Goal{AtMost: 1.03}, paired(of(on, cpu), of(off, cpu))...),
		figure(p, "CPU with it", "s/million", Goal{}, of(on, cpu)...),
		figure(p, "CPU without", "s/million", Goal{}, of(off, cpu)...),
		worst(figure(p, "peak memory with it", "MiB", Goal{}, of(on, peakMiB)...)),
		worst(figure(p, "peak memory without", "MiB", Goal{}, of(off, peakMiB)...)),
		figure(p, "spans sent", "KiB/run", Goal{}, float64(collector.bytes.Load())/1024/float64(b.opts.Pairs)))
	return nil
}

// runAsked is a run of a flow that is asked for its metrics every second, if asked.
func (p *Penstock) runAsked(ctx context.Context, topic *Topic, spec flowSpec, asked bool) (Measurement, error) {
	spec.Topic = topic.Name
	f, err := p.Start(ctx, spec)
	if err != nil {
		return Measurement{}, err
	}
	scraping, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	if asked {
		wg.Go(func() { f.scrape(scraping, time.Second) })
	}
	seen, err := f.watch(ctx, int64(topic.Records))
	stop()
	wg.Wait()
	usage, err := f.Finish(err)
	if err != nil {
		return Measurement{}, err
	}
	m := measured(topic.Records, usage)
	m.Seconds, m.Ready, m.FirstCommit = seen.last.Seconds(), seen.ready.Seconds(), seen.first.Seconds()
	m.RateFromReady = float64(m.Records) / (seen.last - seen.ready).Seconds()
	return m, nil
}

// scrape asks for all metrics every so often, as Prometheus does. A flow that does not listen yet
// is asked again.
func (f *runningFlow) scrape(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _ = metrics(ctx, f.admin)
		case <-ctx.Done():
			return
		}
	}
}

// spanOfRecord gives every record the context of a sampled span, as an instrumented producer does.
type spanOfRecord struct{}

func (spanOfRecord) OnProduceRecordBuffered(r *kgo.Record) {
	var id [24]byte
	for i := range id {
		id[i] = byte(rand.Uint32()) //nolint:gosec // ids of spans, not secrets
	}
	r.Headers = append(r.Headers, kgo.RecordHeader{
		Key: "traceparent", Value: fmt.Appendf(nil, "00-%s-%s-01", hex.EncodeToString(id[:16]), hex.EncodeToString(id[16:])),
	})
}

// spanCollector takes spans and forgets them.
type spanCollector struct {
	URL    string
	bytes  atomic.Int64
	server *http.Server
	ended  chan struct{}
}

func startCollector(ctx context.Context, ports *ports) (*spanCollector, error) {
	address, err := ports.free()
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &spanCollector{URL: "http://" + address, ended: make(chan struct{})}
	c.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		c.bytes.Add(n)
	})}
	go func() {
		defer close(c.ended)
		_ = c.server.Serve(l) // ends with Close
	}()
	return c, nil
}

// Close ends the collector.
func (c *spanCollector) Close() error {
	err := c.server.Close()
	<-c.ended
	return err
}
