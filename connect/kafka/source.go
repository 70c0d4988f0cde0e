package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// Source reads topics of a Kafka cluster as a member of a consumer group.
type Source struct {
	cfg     SourceConfig
	log     *slog.Logger
	pattern *regexp.Regexp // nil where topics are named
	// extra are options for tests: a way to the brokers through a proxy.
	extra []kgo.Opt

	// delivering is held while records of a partition are handed over: what is
	// given up is handed over before, or not at all. Before mu.
	delivering sync.Mutex

	mu sync.Mutex
	// guarded by mu:
	poll     uint64             // number of the poll under way, or of the last one
	wakePoll context.CancelFunc // interrupts the poll under way; nil if there is none
	admin    *cluster           // from Open on
	cl       *kgo.Client        // from Subscribe on
	cut      context.CancelFunc // ends what cl waits for
	in       flow.Intake
	closed   bool
	standby  bool                          // it was said that this process owns nothing
	parts    map[flow.Partition]*partition // owned by this process
	paused   map[flow.Partition]bool       // by the engine
	failures []error                       // for Read to return
	trouble  bool                          // a transient error was reported, and nothing shows that it is over
	reported map[string]time.Time          // transient errors, by what is concerned
	checked  map[string]time.Time          // topics whose id was looked up
	ids      map[[16]byte]string           // topic ids as text
}

var (
	_ flow.Source      = (*Source)(nil)
	_ flow.Committer   = (*Source)(nil)
	_ flow.Pauser      = (*Source)(nil)
	_ flow.Seeker      = (*Source)(nil)
	_ flow.GroupMember = (*Source)(nil)
	_ flow.FetchSizer  = (*Source)(nil)
)

// partition is one that this process owns.
type partition struct {
	flow.Partition
	topicID string
	// next is the offset that the next record has at least.
	next int64
	// stopped says that the partition is not read until it is set to another
	// position or assigned again: its position is lost.
	stopped bool
	// since is the number of the poll during which, or after which, the partition
	// was assigned. What that poll brings may be from before.
	since uint64
	// leaving: the engine is giving the partition up, and takes nothing more.
	leaving bool
	// fresh says that nothing was polled since the assignment. kgo drops a
	// change of position that comes before it has begun to use the partition, so
	// a change (moved) is repeated until a poll proves that it has.
	fresh, moved bool
	epoch        int32 // of the position that moved asks for
	// at is when the partition was assigned; refused and refusedLast are the first
	// and the last of the refusals that go on.
	at, refused, refusedLast time.Time
}

// NewSource makes a source. It connects to nothing.
func NewSource(cfg SourceConfig) (*Source, error) {
	connect.Defaults(&cfg)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Source{
		cfg: cfg, log: cfg.logger(),
		parts: map[flow.Partition]*partition{}, paused: map[flow.Partition]bool{},
		reported: map[string]time.Time{}, checked: map[string]time.Time{},
		ids: map[[16]byte]string{},
	}
	if cfg.Pattern != "" {
		s.pattern = regexp.MustCompile(cfg.Pattern) // Validate compiled it
	}
	return s, nil
}

// Open implements flow.Source.
func (s *Source) Open(ctx context.Context) (*flow.Log, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	id, details, err := c.topics(ctx, s.cfg.Topics, s.pattern)
	if err != nil {
		return nil, err
	}
	group, err := c.groupOffsets(ctx, s.cfg.Group, s.cfg.Flow)
	if err != nil {
		return nil, err
	}
	log := &flow.Log{ClusterID: id, Name: s.cfg.name(), OpenEnded: s.pattern != nil}
	if parts := partitionsOf(details); len(parts) > 0 {
		if log.Partitions, err = c.describe(ctx, &s.cfg, details, parts, group); err != nil {
			return nil, err
		}
	}
	return log, nil
}

// connect returns the admin client, and makes it if need be.
func (s *Source) connect() (*cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errClosed
	case s.admin != nil:
		return s.admin, nil
	}
	opts, err := s.cfg.options(s.log)
	if err != nil {
		return nil, flow.Fatal(err)
	}
	// The limit is for newDecompressor: this client fetches nothing.
	s.admin, err = newCluster(&s.cfg.Connection, slices.Concat(opts, []kgo.Opt{kgo.MaxDecompressBatchBytes(int(s.cfg.Fetch.BatchLimit))}, s.extra))
	return s.admin, err
}

var errClosed = flow.Fatal(errors.New("kafka: the source is closed"))

// Subscribe implements flow.Source: it joins the group.
func (s *Source) Subscribe(_ context.Context, in flow.Intake) error {
	opts, err := s.cfg.options(s.log)
	if err != nil {
		return flow.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.admin == nil:
		return flow.Fatal(errors.New("kafka: Subscribe before Open"))
	case s.cl != nil:
		return flow.Fatal(errors.New("kafka: Subscribe for the second time"))
	}
	if s.cfg.Protocol == protocolConsumer && s.cfg.timesOfMember() {
		s.log.Warn("session_timeout and heartbeat_interval have no effect with protocol: consumer: set group.consumer.session.timeout.ms and "+
			"group.consumer.heartbeat.interval.ms of the brokers, or consumer.session.timeout.ms and consumer.heartbeat.interval.ms of the group",
			slog.String("group", s.cfg.Group))
	}
	s.in = in
	var life context.Context // until Close
	life, s.cut = context.WithCancel(context.Background())
	opts = slices.Concat(opts, s.groupOptions(), []kgo.Opt{kgo.WithContext(life), kgo.WithDecompressor(newDecompressor(s.admin.cl))}, s.extra) //nolint:contextcheck // it outlives the call
	// The callbacks use s.cl: they wait for mu.
	s.cl, err = kgo.NewClient(opts...)
	if err != nil {
		s.cut()
		return flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	return nil
}

func (s *Source) groupOptions() []kgo.Opt {
	c := &s.cfg
	level := kgo.ReadUncommitted()
	if c.Isolation == readCommitted {
		level = kgo.ReadCommitted()
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(c.Group),
		kgo.Balancers(c.balancer()),
		kgo.SessionTimeout(c.SessionTimeout),
		kgo.HeartbeatInterval(c.HeartbeatInterval),
		kgo.RebalanceTimeout(c.RebalanceTimeout),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(s.onSettle),
		kgo.AdjustFetchOffsetsFn(s.onAssigned),
		kgo.OnPartitionsRevoked(s.onRevoked),
		kgo.OnPartitionsLost(s.onLost),

		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(),
		kgo.KeepRetryableFetchErrors(),
		kgo.MetadataMaxAge(c.MetadataMaxAge),
		kgo.MetadataMinAge(min(c.MetadataMaxAge, 2500*time.Millisecond)),

		kgo.FetchMaxBytes(int32(c.Fetch.MaxBytes)),                //nolint:gosec // Validate bounds it
		kgo.FetchMaxPartitionBytes(int32(c.Fetch.PartitionBytes)), //nolint:gosec // Validate bounds it
		kgo.FetchMinBytes(int32(c.Fetch.MinBytes)),                //nolint:gosec // Validate bounds it
		kgo.FetchMaxWait(c.Fetch.Wait),
		kgo.BrokerMaxReadBytes(int32(c.Fetch.ResponseLimit)), //nolint:gosec // Validate bounds it
		kgo.WithPools(newSlabs()),
	}
	if c.Protocol == protocolConsumer {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	if c.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(c.InstanceID))
	}
	if c.Pattern != "" {
		return append(opts, kgo.ConsumeRegex(), kgo.ConsumeTopics(c.Pattern))
	}
	return append(opts, kgo.ConsumeTopics(c.Topics...))
}

func (c *SourceConfig) balancer() kgo.GroupBalancer {
	switch c.Assignor {
	case "sticky":
		return kgo.StickyBalancer()
	case "range":
		return kgo.RangeBalancer()
	case "roundrobin":
		return kgo.RoundRobinBalancer()
	default:
		return kgo.CooperativeStickyBalancer()
	}
}

// client is the group client; nil before Subscribe and from Close on.
func (s *Source) client() *kgo.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	return s.cl
}

// Pause implements flow.Pauser. What kgo has fetched of the partitions already
// is dropped at the next poll, and fetched again after Resume.
func (s *Source) Pause(ps []flow.Partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		s.paused[p] = true
	}
	if s.cl != nil && len(ps) > 0 {
		s.cl.PauseFetchPartitions(byTopic(ps))
	}
}

// Resume implements flow.Pauser.
func (s *Source) Resume(ps []flow.Partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resume := slices.DeleteFunc(slices.Clone(ps), func(p flow.Partition) bool {
		st := s.parts[p]
		return st != nil && st.stopped
	})
	for _, p := range ps {
		delete(s.paused, p)
	}
	if s.cl != nil && len(resume) > 0 {
		s.cl.ResumeFetchPartitions(byTopic(resume))
	}
}

// stop takes a partition out of what is fetched. Call with mu held.
func (s *Source) stop(p *partition) {
	p.stopped = true
	if s.cl != nil {
		s.cl.PauseFetchPartitions(map[string][]int32{p.Topic: {p.ID}})
	}
}

// Seek implements flow.Seeker. kgo drops what it has fetched of the partitions
// before it returns.
func (s *Source) Seek(_ context.Context, positions []flow.Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cl == nil {
		return errClosed
	}
	for _, pos := range positions {
		p := s.parts[pos.Partition]
		if p == nil {
			continue // somebody else's by now
		}
		p.moved = p.moved || p.fresh && p.next != pos.Offset
		p.next, p.epoch = pos.Offset, pos.LeaderEpoch
		s.move(p)
		if p.stopped {
			p.stopped = false
			if !s.paused[p.Partition] {
				s.cl.ResumeFetchPartitions(map[string][]int32{p.Topic: {p.ID}})
			}
		}
	}
	return nil
}

// move sets kgo to the partition's position. Call with mu held.
func (s *Source) move(p *partition) {
	s.cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{p.Topic: {p.ID: {Epoch: p.epoch, Offset: p.next}}})
}

// fail leaves an error for Read to return, and wakes it.
func (s *Source) fail(err error) {
	s.mu.Lock()
	s.failures = append(s.failures, err)
	s.wake()
	s.mu.Unlock()
}

// wake makes a Read that waits for records look around. Call with mu held.
func (s *Source) wake() {
	if s.wakePoll != nil {
		s.wakePoll()
	}
}

func (s *Source) takeFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) == 0 {
		return nil
	}
	err := s.failures[0]
	s.failures = s.failures[1:]
	return err
}

// Close implements flow.Source. It leaves the group, unless the membership is
// static, within ctx and at most ten seconds. The engine's Revoked is called for
// what is still owned.
func (s *Source) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.cl != nil { // until the group is left, Revoked may commit
		cl := s.cl
		s.mu.Unlock()
		s.leave(ctx, cl)
		s.mu.Lock()
		s.cl = nil
	}
	if s.admin != nil {
		s.admin.close()
		s.admin = nil
	}
	return nil
}

func (s *Source) leave(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	defer s.cut()
	// kgo leaves after what it waits for, a rebalance, and Close waits for that.
	defer context.AfterFunc(ctx, s.cut)()
	id, _ := cl.GroupMetadata()
	err := cl.LeaveGroupContext(ctx)
	if s.cfg.InstanceID != "" && errors.Is(err, kerr.InvalidRequest) {
		err = s.leaveForNow(ctx, cl, id)
	}
	if err != nil {
		s.log.Warn("could not leave the group; it gives the partitions away after the session timeout", slog.String("group", s.cfg.Group),
			slog.Duration("session_timeout", s.cfg.SessionTimeout), slog.Any("error", err))
	}
	cl.Close()
}

// leaveForNow tells a group of the consumer protocol that a static member stops:
// its partitions are kept for it, and its successor may join at once. kgo 1.22
// forgets the instance id, which the broker asks for.
func (s *Source) leaveForNow(ctx context.Context, cl *kgo.Client, member string) error {
	const untilItIsBack = -2
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = s.cfg.Group, member, untilItIsBack, &s.cfg.InstanceID
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

func byTopic(ps []flow.Partition) map[string][]int32 {
	m := make(map[string][]int32, len(ps))
	for _, p := range ps {
		m[p.Topic] = append(m[p.Topic], p.ID)
	}
	return m
}

// FetchSize implements flow.FetchSizer.
func (s *Source) FetchSize() int { return int(s.cfg.Fetch.MaxBytes) }

// SetFetchSize implements flow.FetchSizer: what one partition may fill stays
// the same part of it.
func (s *Source) SetFetchSize(bytes int) {
	f := &s.cfg.Fetch
	bytes = min(bytes, int(f.ResponseLimit/2))
	part := int64(f.PartitionBytes) * int64(bytes) / int64(f.MaxBytes)
	if cl := s.client(); cl != nil {
		cl.UpdateFetchMaxBytes(int32(bytes), int32(max(1, part))) //nolint:gosec // below the response limit, which Validate bounds
	}
}
