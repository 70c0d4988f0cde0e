package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topic is a topic of the records that a generator makes.
type Topic struct {
	Brokers []string
	Name    string
	Records int
	// Sums are those of all records.
	Sums sums
	// File holds all rows, Halves those of the lower and of the upper half of
	// the partitions: what two lanes would have. Only where writeFiles made them.
	File   string
	Halves [2]string
}

// createTopic creates an empty topic.
func createTopic(ctx context.Context, brokers []string, name string, partitions int) (*Topic, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, int32(partitions), 1, nil, name); err != nil { //nolint:gosec // at most a few thousand
		return nil, fmt.Errorf("creating topic %s at %s: %w", name, strings.Join(brokers, ","), err)
	}
	return &Topic{Brokers: brokers, Name: name}, nil
}

// producer is a client that produces as a good service does: idempotent, all
// replicas, lz4, some milliseconds for a batch.
func (t *Topic) producer(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(opts,
		kgo.SeedBrokers(t.Brokers...),
		kgo.DefaultProduceTopic(t.Name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(5*time.Millisecond),
	)...)
}

// Fill produces so many more records, each to the partition that place says.
func (t *Topic) Fill(ctx context.Context, records int, place func(i int) int32) error {
	client, err := t.producer()
	if err != nil {
		return err
	}
	defer client.Close()
	return t.fill(ctx, client, records, place)
}

func (t *Topic) fill(ctx context.Context, client *kgo.Client, records int, place func(i int) int32) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := newGenerator()
	for i := t.Records; i < t.Records+records && ctx.Err() == nil; i++ {
		client.Produce(ctx, &kgo.Record{Partition: place(i), Value: t.Sums.next(g, i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				cancel(err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return fmt.Errorf("filling topic %s: %w", t.Name, context.Cause(ctx))
	}
	t.Records += records
	return nil
}

// writeFiles reads a topic that was filled with partitionOf as one consumer of
// all its partitions receives it, fetch by fetch, and writes the rows in that
// order as COPY files below dir. Each record is compared with what was
// produced.
func (t *Topic) writeFiles(ctx context.Context, dir string) (err error) {
	t.File = filepath.Join(dir, t.Name+".copy")
	t.Halves = [2]string{filepath.Join(dir, t.Name+".lower.copy"), filepath.Join(dir, t.Name+".upper.copy")}
	client, err := t.reader()
	if err != nil {
		return err
	}
	defer client.Close()

	var files [3]*copyFile
	for i, path := range []string{t.File, t.Halves[0], t.Halves[1]} {
		f, err := createCopyFile(path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		files[i] = f
	}
	g := newGenerator()
	for files[0].rows < t.Records {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			i := indexOf(r.Partition, r.Offset)
			if failed == nil && !bytes.Equal(r.Value, g.JSON(i)) {
				failed = fmt.Errorf("partition %d holds another record at offset %d than was produced", r.Partition, r.Offset)
			}
			if failed == nil {
				row := g.Row(i)
				failed = errors.Join(files[0].Write(row), files[1+r.Partition/(partitions/2)].Write(row))
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// reader reads all partitions from the beginning, in no group.
func (t *Topic) reader(opts ...kgo.Opt) (*kgo.Client, error) {
	offsets := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	return kgo.NewClient(append(opts, kgo.SeedBrokers(t.Brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Name: offsets}))...)
}

// Delete removes the topic.
func (t *Topic) Delete(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(t.Brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = kadm.NewClient(client).DeleteTopic(ctx, t.Name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	return err
}
