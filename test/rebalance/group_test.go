package rebalance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockdev/penstock/internal/testservice"
)

// patience bounds every wait: a machine may be busy.
const patience = 30 * time.Second

// stays is the member in the test's own process, which is there all the time.
const stays = "stays"

// group is a group of members under a steady load.
type group struct {
	t       *testing.T
	config  memberConfig // of all members, but for the name
	load    *load
	ledger  *ledger
	others  []*process
	joined  int
	windows []window
	ended   chan struct{} // closed when the member that stays has ended
}

// window is a change of the group, from what caused it to the moment when every
// partition has had a batch from its owner.
type window struct {
	what          string
	from, to      time.Time
	before, after []string // the owners
}

// newGroup starts the load and the member that stays, and waits until it has all
// partitions.
func newGroup(t *testing.T, c memberConfig) *group {
	t.Helper()
	name := testservice.Name(t)
	c.Broker, c.Topic, c.Group, c.Database = testservice.Kafka(t), name, name, testservice.Postgres(t)
	g := &group{t: t, config: c, ledger: newLedger(partitions), ended: make(chan struct{})}
	g.query("CREATE TABLE t (part int, off bigint)")
	g.load = newLoad(t, c.Broker, name)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(g.ended)
		own := c
		own.Name, own.Hold = stays, 0
		if own.InstanceID != "" {
			own.InstanceID = stays
		}
		err := runMember(ctx, own, func(e event) {
			e.Member = stays
			g.ledger.add(e)
		})
		if err != nil {
			t.Errorf("the member that stays: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-g.ended
	})
	g.settle()
	return g
}

// query runs a statement that returns at most one row, into dest.
func (g *group) query(sql string, dest ...any) {
	g.t.Helper()
	conn, err := pgx.Connect(g.t.Context(), g.config.Database)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if len(dest) == 0 {
		_, err = conn.Exec(g.t.Context(), sql)
	} else {
		err = conn.QueryRow(g.t.Context(), sql).Scan(dest...)
	}
	if err != nil {
		g.t.Fatalf("%s: %v", sql, err)
	}
}

// settle waits until the members that live share the partitions and each
// partition has had a batch from its owner.
func (g *group) settle() []string {
	g.t.Helper()
	members := []string{stays}
	for _, p := range g.others {
		members = append(members, p.name)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		owners, settled, changed := g.ledger.owners(members)
		if settled {
			return owners
		}
		select {
		case <-changed:
		case <-g.ended:
			g.t.FailNow() // it has said why
		case <-timer.C:
			g.t.Fatalf("after %s the partitions of %s are still not shared and read by %v: %v", patience, g.config.Group, members, owners)
		}
	}
}

// change is something that happens to the group, and what comes of it.
func (g *group) change(what string, do func()) *window {
	g.t.Helper()
	w := window{what: what, before: g.settle(), from: time.Now()}
	do()
	w.after, w.to = g.settle(), time.Now()
	g.windows = append(g.windows, w)
	return &g.windows[len(g.windows)-1]
}

// quiet is a time without a change, to compare with.
func (g *group) quiet() {
	g.t.Helper()
	g.change("quiet", func() { <-time.After(500 * time.Millisecond) })
}

// join adds a member. A static one has a name in the group, others "".
func (g *group) join(instance string) {
	g.t.Helper()
	g.change("join", func() { g.start(instance) })
}

func (g *group) start(instance string) {
	g.t.Helper()
	c := g.config
	g.joined++
	c.Name, c.InstanceID = fmt.Sprintf("member %d", g.joined), instance
	g.others = append(g.others, startMember(g.t, c, g.ledger.add))
}

// leave makes the youngest member leave.
func (g *group) leave() {
	g.t.Helper()
	g.change("leave", func() { g.remove((*process).leave) })
}

// restart makes the youngest member, a static one, leave and come back.
func (g *group) restart() *window {
	g.t.Helper()
	return g.change("restart", func() {
		instance := g.others[len(g.others)-1].instance
		g.remove((*process).leave)
		g.start(instance)
	})
}

// crash kills the youngest member.
func (g *group) crash() {
	g.t.Helper()
	g.change("crash", func() { g.remove((*process).kill) })
}

func (g *group) remove(end func(*process) error) {
	g.t.Helper()
	last := g.others[len(g.others)-1]
	g.others = g.others[:len(g.others)-1]
	if err := end(last); err != nil {
		g.t.Errorf("%s: %v", last.name, err)
	}
}

// verify stops the load, waits until all records are written, and compares the table
// with what was produced: each offset of each partition is there once.
func (g *group) verify() {
	g.t.Helper()
	g.load.stop()
	sent, err := g.load.sent()
	if err != nil {
		g.t.Fatal(err)
	}
	var want []string
	for p, n := range sent {
		want = append(want, fmt.Sprintf("%d: %d rows, %d offsets, %d to %d", p, n, n, 0, n-1))
	}
	const rows = `SELECT coalesce(array_agg(format('%s: %s rows, %s offsets, %s to %s', part, n, d, low, high) ORDER BY part), '{}')
		FROM (SELECT part, count(*) n, count(DISTINCT off) d, min(off) low, max(off) high FROM t GROUP BY part) x`
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var got []string
	for {
		g.query(rows, &got)
		if slices.Equal(got, want) || time.Now().After(deadline) {
			break
		}
		<-tick.C
	}
	for p := range want {
		if p >= len(got) || got[p] != want[p] {
			g.t.Errorf("the table does not hold every record once:\n  got  %s\n  want %s", strings.Join(got, "\n       "), strings.Join(want, "\n       "))
			break
		}
	}
	for len(g.others) > 0 {
		g.remove((*process).leave)
	}
}
