package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstockdev/penstock/flow"
)

var (
	_ flow.Positioner   = (*Source)(nil)
	_ flow.Repositioner = (*Source)(nil)
)

// At implements flow.Positioner.
func (s *Source) At(ctx context.Context, t time.Time) ([]flow.Position, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	_, details, err := c.topics(ctx, s.cfg.Topics, s.pattern)
	if err != nil {
		return nil, err
	}
	parts := partitionsOf(details)
	if len(parts) == 0 {
		return nil, nil
	}
	at := t.Add(time.Millisecond - 1).UnixMilli() // the next whole one: records have no finer time
	found, err := c.listOffsets(ctx, parts, s.cfg.isolation(), max(0, at))
	if err != nil {
		return nil, err
	}
	ends, err := c.listOffsets(ctx, parts, s.cfg.isolation(), atLatest)
	if err != nil {
		return nil, err
	}
	out := make([]flow.Position, len(parts))
	for i, p := range parts {
		out[i] = flow.Position{Partition: p, TopicID: topicID(details[p.Topic].ID), Offset: found[p], LeaderEpoch: -1}
		if out[i].Offset < 0 {
			out[i].Offset = ends[p]
		}
	}
	return out, nil
}

// Members implements flow.Positioner.
func (s *Source) Members(ctx context.Context) ([]string, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	g, err := c.group(ctx, s.cfg.Group)
	return g.members, err
}

// SetPositions implements flow.Repositioner: it commits them as the group's offsets. While the
// group has members it is refused.
func (s *Source) SetPositions(ctx context.Context, setup flow.Setup, positions []flow.Position) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	if _, err := c.groupOffsets(ctx, s.cfg.Group, setup.Flow); err != nil {
		return err
	}
	m := mark{flow: setup.Flow}
	var offsets kadm.Offsets
	for _, p := range positions {
		offsets.Add(kadm.Offset{Topic: p.Topic, Partition: p.ID, At: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: m.String()})
	}
	return c.setOffsets(ctx, s.cfg.Group, offsets)
}

// Forget implements flow.Repositioner: it deletes the group, with its offsets. While the
// group has members it is refused.
func (s *Source) Forget(ctx context.Context, setup flow.Setup) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	if _, err := c.groupOffsets(ctx, s.cfg.Group, setup.Flow); err != nil {
		return err
	}
	return c.deleteGroup(ctx, s.cfg.Group)
}

// group is a consumer group as its coordinator describes it.
type group struct {
	state    string // Empty, Stable, …; empty if there is no such group
	protocol string // classic or consumer
	assignor string
	members  []string            // each with its host
	rights   []kadm.ACLOperation // of who asks; nil if the broker does not tell
}

// group describes a group; one that does not exist is no error.
func (c *cluster) group(ctx context.Context, name string) (group, error) {
	doing := "looking at group " + name
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	var d kadm.DescribedGroup
	err := awaitCoordinator(ctx, func() error {
		classic, err := c.adm.DescribeGroups(ctx, name)
		d = classic[name]
		return cmp.Or(err, d.Err)
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return group{}, c.conn.explain(doing, err, mayJoin(name))
	}
	g := group{rights: d.AuthorizedOperations}
	if err == nil && d.State != "Dead" {
		g.state, g.protocol, g.assignor = d.State, "classic", d.Protocol
		for i := range d.Members {
			m := &d.Members[i]
			g.add(m.ClientID, m.MemberID, m.InstanceID, m.ClientHost)
		}
		return g, nil
	}
	consumer, err := c.adm.DescribeConsumerGroups(ctx, name)
	n := consumer[name]
	switch err = cmp.Or(err, n.Err); {
	case errors.Is(err, kerr.GroupIDNotFound), errors.Is(err, kerr.UnsupportedVersion):
		return g, nil
	case err != nil:
		return group{}, c.conn.explain(doing, err, mayJoin(name))
	}
	g.state, g.protocol, g.assignor, g.rights = n.State, protocolConsumer, n.AssignorName, n.AuthorizedOperations
	for i := range n.Members {
		m := &n.Members[i]
		g.add(m.ClientID, m.MemberID, m.InstanceID, m.ClientHost)
	}
	return g, nil
}

// add names a member.
func (g *group) add(client, id string, instance *string, host string) {
	name := fmt.Sprintf("%s at %s, member %s", client, strings.TrimPrefix(host, "/"), id)
	if instance != nil {
		name = fmt.Sprintf("%s at %s, instance %s", client, strings.TrimPrefix(host, "/"), *instance)
	}
	g.members = append(g.members, name)
}

// idle refuses a group that has members.
func (c *cluster) idle(ctx context.Context, name, doing string) error {
	g, err := c.group(ctx, name)
	if err != nil || len(g.members) == 0 {
		return err
	}
	return flow.Fatal(fmt.Errorf("kafka: %s (brokers %s): the group has members: %s; stop the flow in these processes first, "+
		"or, if they were killed, wait until their session has timed out", doing, c.conn.addresses(), strings.Join(g.members, "; ")))
}

// setOffsets commits offsets of a group that has no members.
func (c *cluster) setOffsets(ctx context.Context, name string, offsets kadm.Offsets) error {
	if len(offsets) == 0 {
		return nil
	}
	doing := "setting the offsets of group " + name
	if err := c.idle(ctx, name, doing); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	resp, err := c.adm.CommitOffsets(ctx, name, offsets)
	if err == nil {
		err = resp.Error()
	}
	return c.joined(ctx, name, doing, err)
}

// deleteGroup deletes a group that has no members. One that does not exist is no error.
func (c *cluster) deleteGroup(ctx context.Context, name string) error {
	doing := "deleting group " + name
	if err := c.idle(ctx, name, doing); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	_, err := c.adm.DeleteGroup(ctx, name)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil
	}
	return c.joined(ctx, name, doing, err, right{resource: "group", name: name, operations: []string{"Delete"}})
}

// joined explains an error of the coordinator, which may have members since idle asked.
func (c *cluster) joined(ctx context.Context, name, doing string, err error, needs ...right) error {
	if membership(err) || errors.Is(err, kerr.NonEmptyGroup) {
		if busy := c.idle(ctx, name, doing); busy != nil {
			return busy
		}
		err = flow.Transient(fmt.Errorf("kafka: %s (brokers %s): %w; members came or went: try again", doing, c.conn.addresses(), err))
	}
	return c.conn.explain(doing, err, append(needs, mayJoin(name))...)
}
