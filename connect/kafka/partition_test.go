package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestKeysGoWhereJavaPutsThem: the hashes are Utils.murmur2 of Kafka's Java
// client, from its own test (UtilsTest.testMurmur2).
func TestKeysGoWhereJavaPutsThem(t *testing.T) {
	const partitions = 1 << 20
	p := newPartitioner(partitionKey, "dead").ForTopic("t")
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string":                       -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		want := int(hash&0x7fffffff) % partitions
		if got := p.Partition(&kgo.Record{Key: []byte(key)}, partitions); got != want {
			t.Errorf("key %q goes to partition %d, in Java to %d", key, got, want)
		}
	}
}

func TestDeadLettersStayWhereTheyArePut(t *testing.T) {
	for _, way := range []string{partitionKeep, partitionKey, partitionSticky} {
		p := newPartitioner(way, "dead")
		if got := p.ForTopic("dead").Partition(&kgo.Record{Partition: 3, Key: []byte("k")}, 5); got != 3 {
			t.Errorf("partition: %s moves a dead letter from 3 to %d", way, got)
		}
	}
	if got := newPartitioner(partitionKeep, "dead").ForTopic("t").Partition(&kgo.Record{Partition: 4, Key: []byte("k")}, 5); got != 4 {
		t.Errorf("partition: keep moves a record from 4 to %d", got)
	}
}
