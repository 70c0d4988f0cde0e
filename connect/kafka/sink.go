package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// Sink writes raw records to topics: at least once, durable on all in-sync
// replicas, those of one source partition in order. It decodes nothing. Keys,
// values, headers and timestamps (of millisecond precision) are kept.
type Sink struct {
	cfg SinkConfig
	log *slog.Logger
	// extra are options for tests: a way to the brokers through a proxy.
	extra []kgo.Opt

	// Set by Open.
	setup flow.Setup
	opts  []kgo.Opt
	admin *cluster
	// clusterID is that of the cluster that is written to.
	clusterID string
	// implicit says that the cluster adds partitions and groups to a transaction
	// when they are written (transaction version 2, KIP-890).
	implicit bool
	// letters are the partitions of the dead-letter topic.
	letters int32
	// kept is where the dead letters are; nil without a topic for them.
	kept *LetterLog

	mu      sync.Mutex // guards what follows
	targets map[string]*target
}

var (
	_ flow.Sink            = (*Sink)(nil)
	_ flow.DeadLetterStore = (*Sink)(nil)
)

// NewSink makes a *Sink or, for exactly once, a *TransactionalSink. It connects
// to nothing.
func NewSink(cfg SinkConfig) (flow.Sink, error) {
	connect.Defaults(&cfg)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, log: cfg.logger()}
	if cfg.DeadLetterTopic != "" {
		s.kept = newLetterLog(&s.cfg.Connection, cfg.DeadLetterTopic, s.log)
	}
	if cfg.Delivery == deliverAtLeastOnce {
		return s, nil
	}
	return &TransactionalSink{Sink: s, claiming: make(chan struct{}, 1)}, nil
}

// StoresDeadLetters says whether there is a topic for them.
func (s *Sink) StoresDeadLetters() bool { return s.cfg.DeadLetterTopic != "" }

// LetterLog is where the dead letters are kept; nil if the sink keeps none. It needs no Open, and is closed by Close.
func (s *Sink) LetterLog() flow.LetterLog {
	if s.kept == nil {
		return nil
	}
	return s.kept
}

// Open implements flow.Sink. It may be called again after an error.
func (s *Sink) Open(ctx context.Context, setup flow.Setup) error {
	s.free()
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	s.setup = setup
	if err := s.connect(); err != nil {
		return err
	}
	return s.lookAtTopics(ctx)
}

// connect makes the client that asks.
func (s *Sink) connect() error {
	opts, err := s.cfg.options(s.log)
	if err != nil {
		return flow.Fatal(err)
	}
	// Requests that carry topic ids instead of names from some version on are
	// made here with names.
	s.opts = slices.Concat(opts, []kgo.Opt{kgo.MaxVersions(versions(5))}, s.extra)
	s.admin, err = newCluster(&s.cfg.Connection, s.opts)
	return err
}

// versions are those of all requests that may be used. Of TxnOffsetCommit and
// EndTxn, transaction is the last version.
func versions(transaction int16) *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.OffsetCommit), 9)
	v.SetMaxKeyVersion(int16(kmsg.TxnOffsetCommit), transaction)
	v.SetMaxKeyVersion(int16(kmsg.EndTxn), transaction)
	return v
}

// Writer implements flow.Sink.
func (s *Sink) Writer(int) (flow.Writer, error) {
	if s.admin == nil {
		return nil, flow.Fatal(errors.New("kafka: the sink is not open"))
	}
	return &writer{producer: newProducer(s)}, nil
}

// Close implements flow.Sink.
func (s *Sink) Close(context.Context) error {
	s.free()
	if s.kept != nil {
		s.kept.close()
	}
	return nil
}

func (s *Sink) free() {
	if s.admin != nil {
		s.admin.close()
		s.admin = nil
	}
}

// deadLetters are those that the sink writes. Without a topic for them the
// engine stops before a batch with any is written.
func (s *Sink) deadLetters(b *flow.Batch) []flow.DeadLetter {
	if s.cfg.DeadLetterTopic == "" {
		return nil
	}
	return b.DeadLetters()
}

// writer writes the batches of one lane, at least once.
type writer struct{ *producer }

// Write implements flow.Writer. Rows and dead letters are durable when it
// returns nil.
func (w *writer) Write(ctx context.Context, b *flow.Batch) error {
	letters := w.s.deadLetters(b)
	if b.Rows() == 0 && len(letters) == 0 {
		return nil
	}
	failpoint.Hit("sink.before_begin")
	large, err := w.prepare(ctx, b, letters)
	if err != nil {
		return err
	}
	if err := w.connect(large, nil); err != nil {
		return err
	}
	if err := w.produce(ctx, b, letters); err != nil {
		w.drop()
		return err
	}
	failpoint.Hit("sink.after_commit")
	return nil
}

// Close implements flow.Writer.
func (w *writer) Close() error {
	w.drop()
	return nil
}

// writeError gives what the brokers said of produced records a class and words.
func (s *Sink) writeError(topic string, err error) error {
	doing := "writing to topic " + topic
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return flow.Transient(fmt.Errorf("kafka: %s (brokers %s): not acknowledged in time: %w; check that the brokers run, and that enough replicas are in sync (min.insync.replicas)",
			doing, s.cfg.addresses(), err))
	}
	return s.refused(doing, topic, err)
}
