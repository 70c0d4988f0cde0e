package kafka

import (
	"context"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// TestRightsOfTheTransactionalSink begins with a user who may do nothing, and
// grants what the errors ask for, until everything works; then takes one right
// after the other away from a sink that runs.
func TestRightsOfTheTransactionalSink(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	name := testservice.Name(t)
	r := &txnRig{broker: s.broker, flow: name, group: name, source: name + ".in", target: name + ".out", partitions: 1}
	s.create(r.source, 1)
	s.create(r.target, 1)
	s.addUser(name, "secret")
	r.conn = s.app(r.source).Connection
	r.conn.SASL = &SASL{Mechanism: "SCRAM-SHA-512", Username: name, Password: connect.Secret("secret")}
	dead := name + ".dead"
	t.Cleanup(func() { _, _ = s.adm.DeleteTopic(context.Background(), dead) })
	anyone := func([]flow.Partition) (flow.Member, error) { return nobody, nil }
	cfg := SinkConfig{Connection: r.conn, Topic: r.target, DeadLetterTopic: dead, Create: true}

	var p *txnProcess
	write := func() error {
		b := p.batch(r.part(0), "row", "dead")
		b.Reject(1, flow.StageTransform, context.Canceled)
		err := p.w.Write(t.Context(), b)
		if err == nil {
			p.wrote(b)
		}
		return err
	}
	everything := func() (err error) {
		if p, err = r.open(cfg, anyone); err != nil {
			return err
		}
		got, err := p.Claim(t.Context(), 0, []flow.Partition{r.part(0)})
		if err != nil {
			return err
		}
		p.held[r.part(0)] = got[0]
		return write()
	}

	rights := []string{
		"Write on topic " + dead + ", and Create on topic " + dead,
		"Write on topic " + r.target + ", and Create on topic " + r.target,
		"Read on group " + r.group,
		"Read on topic " + r.source,
		"Write on transactional ids that begin with " + r.flow + "-",
	}
	// granted does what the errors say until try succeeds, and returns the rights they named.
	granted := func(try func() error) []string {
		t.Helper()
		var asked []string
		eventually(t, "the rights to suffice", func() bool {
			err := try()
			if err == nil || flow.IsTransient(err) { // a topic that was created just now
				return err == nil
			}
			_, rest, _ := strings.Cut(err.Error(), "user "+name+" may not do this: grant it ")
			needs, _, found := strings.Cut(rest, ", as an administrator with: ")
			if flow.ClassOf(err) != flow.ClassFatal || !found {
				t.Fatalf("asked for %q, then: want a fatal error that names a right, have %v", asked, err)
			}
			if len(asked) == 0 || asked[len(asked)-1] != needs { // it takes a moment until a broker knows
				asked = append(asked, needs)
				s.grant(err)
			}
			return false
		})
		return asked
	}
	wantValues(t, granted(everything), rights)

	own := func() *kadm.ACLBuilder { return kadm.NewACLs().Allow("User:" + name).AllowHosts("*") }
	for _, c := range []struct {
		take  *kadm.ACLBuilder
		wants string
	}{
		{own().Topics(r.target).Operations(kadm.OpWrite).ResourcePatternType(kadm.ACLPatternLiteral), "Write on topic " + r.target},
		{own().Topics(dead).Operations(kadm.OpWrite).ResourcePatternType(kadm.ACLPatternLiteral), "Write on topic " + dead},
		{own().Groups(r.group).Operations(kadm.OpRead).ResourcePatternType(kadm.ACLPatternLiteral), "Read on group " + r.group},
		{own().Topics(r.source).Operations(kadm.OpRead).ResourcePatternType(kadm.ACLPatternLiteral), "Read on topic " + r.source},
		{own().TransactionalIDs(r.flow + "-").Operations(kadm.OpWrite).ResourcePatternType(kadm.ACLPatternPrefixed), "Write on transactional ids that begin with " + r.flow + "-"},
	} {
		if _, err := s.adm.DeleteACLs(t.Context(), c.take); err != nil {
			t.Fatal(err)
		}
		failed := false
		asked := granted(func() error {
			err := write()
			if err == nil && !failed {
				return flow.Transient(context.Canceled) // the broker does not know yet
			}
			failed = true
			return err
		})
		wantValues(t, asked, []string{c.wants})
	}
}

func TestRightsOfTheSinkAtLeastOnce(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	name := testservice.Name(t)
	s.create(name, 1)
	s.addUser(name, "secret")
	conn := s.app(name).Connection
	conn.SASL = &SASL{Mechanism: "SCRAM-SHA-512", Username: name, Password: connect.Secret("secret")}
	cfg := SinkConfig{Connection: conn, Topic: name}
	_, err := openSink(t, cfg)
	wantError(t, "no right", err, flow.ClassFatal, name, "grant it Write on topic "+name+", as")
	s.grant(err)
	var w flow.Writer
	eventually(t, "the right to arrive", func() bool { w, err = openSink(t, cfg); return err == nil })
	if err := w.Write(t.Context(), partsOf("source", []flow.Record{{Value: []byte("x")}})); err != nil {
		t.Error(err)
	}
	cfg.Topic, cfg.Create = name+".new", true
	_, err = openSink(t, cfg)
	wantError(t, "to be created", err, flow.ClassFatal, "grant it Write on topic "+cfg.Topic+", and Create on topic "+cfg.Topic+", as")
}
