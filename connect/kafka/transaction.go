package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/penstockdev/penstock/flow"
)

// TransactionalSink is a Sink that commits rows, dead letters and the offsets of
// the source's group in one transaction: exactly once, for readers of
// committed records. Source and target are one cluster.
//
// # Who fences whom
//
// Every lane has a client and a transactional id of its own; losing a
// partition ends the work of its lane alone. Three things keep a lane from
// writing what it does not own:
//
//   - Within the process the sink remembers what Claim gave to whom, and asks
//     before a transaction, and again when its offsets are in.
//   - Offsets are committed under the group's generation (KIP-447): once a
//     partition was given to another member, the commit of the former owner is
//     refused, and its transaction aborted.
//   - A transaction whose offsets were accepted before that, and that is not
//     ended, keeps the offsets unstable. Claim waits for it, and then ends it: the
//     metadata of the offsets names the transactional id.
//
// Where nobody joins the group, as in a redrive, transactional ids take the place of the
// generation: see transaction_alone.go.
type TransactionalSink struct {
	*Sink

	// Set by Open.
	group          string
	process        string // begins the transactional ids of this process
	source, target string // fingerprints

	claiming chan struct{} // holds one token: whoever has put it in claims

	held struct {
		sync.Mutex
		// guarded by the mutex above:
		parts map[flow.Partition]holding
		taken map[string]int // how often Claim has used a transactional id
	}
}

// holding is what a lane of this process knows of a partition that it claimed.
type holding struct {
	owner, offset int64
	topicID       string
}

var (
	_ flow.Sink              = (*TransactionalSink)(nil)
	_ flow.GroupCheckpointer = (*TransactionalSink)(nil)
	_ flow.DeadLetterStore   = (*TransactionalSink)(nil)
)

// KeepsGroupOffsets implements flow.GroupCheckpointer.
func (s *TransactionalSink) KeepsGroupOffsets() {}

// Open implements flow.Sink.
func (s *TransactionalSink) Open(ctx context.Context, setup flow.Setup) error {
	const instead = "set delivery: at_least_once"
	if setup.Member == nil {
		return flow.Fatal(errors.New("kafka: delivery: exactly_once commits the positions as offsets of the source's consumer group, and this source has none; " + instead))
	}
	if err := s.Sink.Open(ctx, setup); err != nil {
		return err
	}
	if setup.ClusterID != s.clusterID {
		return flow.Fatal(fmt.Errorf("kafka: delivery: exactly_once needs source and target in one cluster, whose transaction holds both; the source reads cluster %s, and %s is cluster %s; %s",
			setup.ClusterID, s.cfg.addresses(), s.clusterID, instead))
	}
	m, err := setup.Member(nil)
	if err != nil {
		return err
	}
	s.group = m.Group
	s.process = setup.Flow + "-" + strings.ToLower(rand.Text()[:10])
	s.source, s.target = fingerprint(setup.Source), fingerprint(s.cfg.Topic)
	s.held.Lock()
	s.held.parts, s.held.taken = map[flow.Partition]holding{}, map[string]int{}
	s.held.Unlock()
	return s.lookAtFeatures(ctx)
}

// lookAtFeatures asks how transactions work in the cluster. kgo does so for
// what it sends by itself; committing offsets is done here.
func (s *TransactionalSink) lookAtFeatures(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "penstock", "1"
	resp, err := req.RequestWith(ctx, s.admin.cl)
	if err != nil {
		return s.cfg.explain("asking for the features of the cluster", err)
	}
	level, commit := int16(0), int16(0)
	for _, f := range resp.FinalizedFeatures {
		if f.Name == "transaction.version" {
			level = f.MaxVersionLevel
		}
	}
	for _, k := range resp.ApiKeys {
		if k.ApiKey == int16(kmsg.TxnOffsetCommit) {
			commit = k.MaxVersion
		}
	}
	return s.useImplicit(level >= 2 && commit >= 5)
}

func (s *TransactionalSink) useImplicit(implicit bool) (err error) {
	s.implicit = implicit
	if !implicit {
		s.admin.close()
		s.admin, err = newCluster(&s.cfg.Connection, slices.Concat(s.opts, []kgo.Opt{kgo.MaxVersions(s.versions())}))
	}
	return err
}

// versions are those of the cluster's kind of transactions.
func (s *TransactionalSink) versions() *kversion.Versions {
	if s.implicit {
		return versions(5)
	}
	return versions(4) // the last that does not presume transaction version 2
}

// Writer implements flow.Sink.
func (s *TransactionalSink) Writer(lane int) (flow.Writer, error) {
	if s.admin == nil {
		return nil, flow.Fatal(errors.New("kafka: the sink is not open"))
	}
	return &transactor{producer: newProducer(s.Sink), sink: s, id: s.transactionalID(lane)}, nil
}

func (s *TransactionalSink) transactionalID(lane int) string {
	return fmt.Sprintf("%s-%d", s.process, lane)
}

// idPrefix is how all transactional ids of the flow begin that the id is of.
func idPrefix(id string) string {
	for range 2 { // the lane, the process
		id = id[:max(0, strings.LastIndexByte(id, '-'))]
	}
	return id + "-"
}

// transactional are the options of a lane's client.
func (s *TransactionalSink) transactional(id string) []kgo.Opt {
	return []kgo.Opt{
		kgo.TransactionalID(id), kgo.TransactionTimeout(s.cfg.TransactionTimeout),
		kgo.MaxVersions(s.versions()),
	}
}

// owned refuses parts that are not as this process last left them.
func (s *TransactionalSink) owned(parts []flow.Part) error {
	fenced := &flow.FencedError{}
	var why []error
	s.held.Lock()
	defer s.held.Unlock()
	for i := range parts {
		p := &parts[i]
		h, ok := s.held.parts[p.Partition]
		if ok && h.owner == p.Owner && h.offset == p.From {
			continue
		}
		fenced.Partitions = append(fenced.Partitions, p.Partition)
		if len(why) < 3 {
			why = append(why, fmt.Errorf("%s is at %d under owner epoch %d, expected %d under %d", p.Partition, h.offset, h.owner, p.From, p.Owner))
		}
	}
	if why == nil {
		return nil
	}
	fenced.Err = errors.Join(why...)
	return fenced
}

// moved notes that the parts are durable.
func (s *TransactionalSink) moved(parts []flow.Part) {
	s.held.Lock()
	defer s.held.Unlock()
	for i := range parts {
		if h, ok := s.held.parts[parts[i].Partition]; ok && h.owner == parts[i].Owner {
			h.offset = parts[i].Next
			s.held.parts[parts[i].Partition] = h
		}
	}
}

// pause waits a moment before something is asked again; false if ctx ends.
func pause(ctx context.Context) bool { return sleep(ctx, 25*time.Millisecond) }
