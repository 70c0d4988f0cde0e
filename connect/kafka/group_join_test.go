package kafka

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

// Two flows begin together in a new group. Neither has written anything when it is
// told: each would get a part of the records only.
func TestTwoFlowsBeginInOneGroup(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(2))
	var flows []*running
	for _, name := range []string{"first", "second"} {
		c := cfg
		c.Flow = name
		src, _ := open(t, c)
		flows = append(flows, &running{Source: src})
	}
	for i, f := range flows {
		flows[i] = read(t, f.Source, newIntake(t))
	}
	var err error
	eventually(t, "one of them to be refused", func() bool {
		for _, f := range flows {
			if err == nil {
				err = f.fatal()
			}
		}
		return err != nil
	})
	wantError(t, "the other flow", err, flow.ClassFatal, "belongs to flow", cfg.Group, "lost then")
}

// The offset that is left with the flow's name is the position, so that it means
// the same to a restart as none did.
func TestGroupIsMarkedAtTheFirstAssignment(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(2))
	cfg.Flow = "first"
	b.fill(cfg.Topics[0], 2, 0, 5)
	b.commitAs(cfg.Group, cfg.Topics[0], 1, 4) // another program's; the position is 2
	in := newIntake(t)
	in.start = func(_ context.Context, p flow.PartitionInfo) int64 { return int64(p.ID + 1) }
	run(t, cfg, in)
	eventually(t, "the records", func() bool { return in.count() == 4+3 })
	os, err := b.adm.FetchOffsets(t.Context(), cfg.Group)
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := os.Lookup(cfg.Topics[0], 0); o.At != 1 || o.Metadata != "penstock:first" {
		t.Errorf("the offset is %d, with %q", o.At, o.Metadata)
	}
	if o, _ := os.Lookup(cfg.Topics[0], 1); o.At != 4 || o.Metadata != "" {
		t.Errorf("the other program's offset is %d, with %q", o.At, o.Metadata)
	}
}

// joinOnly joins the group without sharing anything out, as a leader does that
// has died at once. With the id of a member it joins anew.
func (b *broker) joinOnly(group, topic, id string) string {
	b.t.Helper()
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{topic}
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "cooperative-sticky", meta.AppendTo(nil)
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = group, id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 40_000, 40_000
	req.Protocols = append(req.Protocols, protocol)
	eventually(b.t, "a leader", func() bool {
		resp, err := req.RequestWith(b.t.Context(), b.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
			req.MemberID = cmp.Or(resp.MemberID, req.MemberID)
		}
		return err == nil
	})
	return req.MemberID
}

// A group that waits for a leader answers nothing. Close does not wait for it.
func TestCloseWhileTheGroupIsSilent(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	cfg.SessionTimeout, cfg.RebalanceTimeout = 40*time.Second, 40*time.Second
	state := func() (string, int) {
		groups, err := b.adm.DescribeGroups(t.Context(), cfg.Group)
		if err != nil {
			return "", 0
		}
		return groups[cfg.Group].State, len(groups[cfg.Group].Members)
	}
	leader := b.joinOnly(cfg.Group, cfg.Topics[0], "")
	r := run(t, cfg, newIntake(t))
	eventually(t, "the source to join", func() bool {
		s, n := state()
		return s == "PreparingRebalance" && n == 2
	})
	b.joinOnly(cfg.Group, cfg.Topics[0], leader)
	eventually(t, "both to wait for the leader", func() bool {
		s, n := state()
		return s == "CompletingRebalance" && n == 2
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("Close took %s, and was given 1s", took)
	}
}

func TestStandbySaysSo(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	in := newIntake(t)
	run(t, cfg, in)
	eventually(t, "the partition", func() bool { return in.owns() == 1 })
	var log lockedBuffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	run(t, cfg, newIntake(t))
	eventually(t, "a line", func() bool { return strings.Contains(log.String(), "standby: all partitions are with other members") })
}

// commitAs commits an offset as a program would that is no Penstock.
func (b *broker) commitAs(group, topic string, partition int32, at int64) {
	b.t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, at, -1)
	eventually(b.t, "an offset of the group", func() bool {
		resp, err := b.adm.CommitOffsets(b.t.Context(), group, offsets)
		return err == nil && resp.Error() == nil
	})
}
