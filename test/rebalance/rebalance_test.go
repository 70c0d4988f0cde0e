package rebalance

import (
	"flag"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var cycles = flag.Int("cycles", 6, "how often members join, leave, and are killed")

// bound is what a gap may be here: four times the goal of 50 ms on an idle
// machine, for tests under the race detector beside others.
const bound = 200 * time.Millisecond

// A member is soon noticed, and soon given up. The consumer protocol's times are
// the broker's, and the same.
const heartbeat, session = 300 * time.Millisecond, 1500 * time.Millisecond

// protocols are the ways to share out partitions without a stop.
var protocols = map[string]memberConfig{
	"classic":  {Protocol: "classic", Assignor: "cooperative-sticky", Heartbeat: heartbeat, Session: session},
	"consumer": {Protocol: "consumer", Heartbeat: heartbeat, Session: session},
}

// While members join, leave and are killed, the partitions that a member keeps go
// on, those that move pause briefly, and every record is written once.
func TestPartitionsThatStayGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, c)
			g.join("") // another one that stays: groups wait for their slowest
			for range *cycles {
				g.quiet()
				g.join("")
				g.leave()
				g.join("")
				g.crash()
			}
			g.verify()
			g.log("quiet", "join", "leave", "crash")
			changes := []string{"join", "leave", "crash"}
			g.wantStaying(changes...)
			g.wantMovingWithin(2*time.Second, changes...)
		})
	}
}

// Members that take long to let partitions go delay nobody else, unless the
// assignor is an eager one: then all wait for all. That a test of this kind can
// see it shows what the figures of the others are worth.
func TestOnlyEagerMembersWaitForEachOther(t *testing.T) {
	t.Parallel()
	for _, assignor := range []string{"cooperative-sticky", "range"} {
		t.Run(assignor, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, memberConfig{Protocol: "classic", Assignor: assignor, Heartbeat: heartbeat, Session: session, Hold: time.Second})
			g.join("")
			g.windows = nil
			for range 3 {
				g.quiet()
				g.join("")
				g.leave()
			}
			g.verify()
			g.log("quiet", "join", "leave")
			if assignor == "cooperative-sticky" {
				g.wantStaying("join", "leave")
				return
			}
			got, limit := typical(g.figures("join", "leave")), bound+typical(g.figures("quiet"))
			if got <= limit {
				t.Errorf("negative control: with an eager assignor the largest gap of a partition is %s at the median, "+
					"want more than %s: what is measured here cannot fail", got, limit)
			}
		})
	}
}

// A static member that is started anew gets its partitions back, and nobody else
// notices.
func TestRestartOfAStaticMember(t *testing.T) {
	t.Parallel()
	for name, c := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.InstanceID, c.Session = stays, patience
			g := newGroup(t, c)
			g.setSession(patience)
			g.join("other")
			for range 3 {
				g.quiet()
				w := g.restart()
				for p := range partitions {
					if (w.before[p] == stays) != (w.after[p] == stays) {
						t.Errorf("partition %d was with %q before the restart and is with %q after it", p, w.before[p], w.after[p])
					}
					for _, e := range g.ledger.of(p) {
						if e.Member == stays && e.Kind != written && e.At.After(w.from) && e.At.Before(w.to) {
							t.Errorf("partition %d %s during the restart of another member", p, e.Kind)
						}
					}
				}
			}
			g.verify()
			g.log("quiet", "restart")
			g.wantStaying("restart")
		})
	}
}

// setSession sets the session timeout of the consumer protocol for the group.
func (g *group) setSession(d time.Duration) {
	g.t.Helper()
	const groupResource = 32
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = groupResource, g.config.Group
	entry := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	entry.Name, entry.Value = "consumer.session.timeout.ms", new(strconv.FormatInt(d.Milliseconds(), 10))
	resource.Configs = append(resource.Configs, entry)
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(g.t.Context(), g.load.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		g.t.Fatalf("setting the session timeout of group %s: %v", g.config.Group, err)
	}
}

func (g *group) log(kinds ...string) {
	g.t.Helper()
	for _, what := range kinds {
		g.t.Logf("%s:%s", what, g.figures(what))
	}
}

// wantStaying checks the gaps of partitions that stay, beyond those that this
// machine has while nothing changes.
func (g *group) wantStaying(kinds ...string) {
	g.t.Helper()
	f, quiet := g.figures(kinds...), g.figures("quiet")
	if len(f.largest) == 0 {
		g.t.Fatal("no partition has stayed where it was")
	}
	if got, limit := percentile(f.gaps, 99), bound+percentile(quiet.gaps, 99); got > limit {
		g.t.Errorf("99 %% of the gaps between two batches of a partition that stays are at most %s, want %s", got, limit)
	}
	// While a process starts, the machine is as busy as it is for moments when nothing changes.
	if got, limit := typical(f), bound+max(typical(quiet), percentile(quiet.gaps, 99)); got > limit {
		g.t.Errorf("the largest gap of a partition that stays is %s at the median of all changes, want at most %s", got, limit)
	}
}

// typical is the largest gap of a partition at the median of all changes: a pause
// that comes with every change shows in it, a machine that is busy for a moment
// does not.
func typical(f *figures) time.Duration { return percentile(f.largest, 50) }

// wantMovingWithin checks the pauses of partitions that move.
func (g *group) wantMovingWithin(limit time.Duration, kinds ...string) {
	g.t.Helper()
	f := g.figures(kinds...)
	if len(f.fromAssign) == 0 {
		g.t.Fatal("no partition has moved")
	}
	if got := percentile(f.fromAssign, 99); got > limit {
		g.t.Errorf("99 %% of the partitions that move get their first batch within %s of the assignment, want %s", got, limit)
	}
}
