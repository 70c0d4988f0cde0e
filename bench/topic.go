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

// Topic is the topic that every side reads, and the same rows as binary COPY
// files in the topic's order.
type Topic struct {
	Brokers []string
	Name    string
	Records int
	// File holds all rows, Halves those of the lower and of the upper half of
	// the partitions: what two lanes would have.
	File   string
	Halves [2]string
}

// makeTopic creates a topic, fills it with records, and writes the COPY files
// below dir.
func makeTopic(ctx context.Context, brokers []string, name string, records int, dir string) (_ *Topic, err error) {
	t := &Topic{
		Brokers: brokers, Name: name, Records: records,
		File:   filepath.Join(dir, name+".copy"),
		Halves: [2]string{filepath.Join(dir, name+".lower.copy"), filepath.Join(dir, name+".upper.copy")},
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.DefaultProduceTopic(name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(5*time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, partitions, 1, nil, name); err != nil {
		return nil, fmt.Errorf("creating topic %s at %s: %w", name, strings.Join(brokers, ","), err)
	}
	if err := t.produce(ctx, client); err != nil {
		return nil, errors.Join(fmt.Errorf("filling topic %s: %w", name, err), t.Delete(context.WithoutCancel(ctx)))
	}
	if err := t.writeFiles(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the rows of topic %s as COPY files: %w", name, err), t.Delete(context.WithoutCancel(ctx)))
	}
	return t, nil
}

func (t *Topic) produce(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := newGenerator()
	for i := range t.Records {
		client.Produce(ctx, &kgo.Record{Partition: partitionOf(i), Value: bytes.Clone(g.JSON(i))}, func(_ *kgo.Record, err error) {
			if err != nil {
				cancel(err)
			}
		})
		if ctx.Err() != nil {
			break
		}
	}
	if err := client.Flush(ctx); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// writeFiles reads the topic as one consumer of all its partitions receives
// it, fetch by fetch, and writes the rows in that order. Each record is
// compared with what was produced.
func (t *Topic) writeFiles(ctx context.Context) (err error) {
	offsets := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(t.Brokers...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Name: offsets}),
	)
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
