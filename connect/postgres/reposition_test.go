package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

const checkpointRows = "SELECT flow, topic, partition, topic_id, next_offset, leader_epoch FROM penstock_checkpoint ORDER BY 1, 2, 3"

func positionAt(partition int32, offset int64) flow.Position {
	return flow.Position{Partition: flow.Partition{Topic: "telemetry", ID: partition}, TopicID: "id2", Offset: offset, LeaderEpoch: 4}
}

// The process that runs all the same is fenced, and goes on at the new position.
func TestSettingPositionsFencesWhoeverRuns(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"d", 1, 2.0})
	from := d.letterLog(d.url).sink // another process
	if err := from.SetPositions(t.Context(), r.setup, []flow.Position{positionAt(0, 40), positionAt(2, 7)}); err != nil {
		t.Fatal(err)
	}
	d.want(checkpointRows, "test|telemetry|0|id2|40|4", "test|telemetry|1|id|0|-1", "test|telemetry|2|id2|7|4")
	r.wantErr(r.batch(row{"d", 2, 2.0}), flow.ClassFenced)
	d.want("SELECT count(*) FROM t", "1")
	r.claim()
	if r.at[0].Offset != 40 {
		t.Errorf("goes on at %d", r.at[0].Offset)
	}
	r.write(row{"d", 2, 2.0})
	if err := from.SetPositions(t.Context(), r.setup, []flow.Position{positionAt(0, -2)}); err == nil {
		t.Error("a negative offset was set")
	}
	other := r.setup
	other.Source = "group h"
	wantError(t, from.SetPositions(t.Context(), other, []flow.Position{positionAt(0, 1)}), flow.ClassFatal, "another flow")
}

func TestAFlowStartsWhereItWasSetBeforeItEverRan(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	s := d.letterLog(testservice.PgBouncer(t, d.url)).sink
	setup := flow.Setup{Flow: "test", ClusterID: "c1", Source: "group g, topics telemetry"}
	if err := s.SetPositions(t.Context(), setup, []flow.Position{positionAt(0, 40), positionAt(1, 41)}); err != nil {
		t.Fatal(err)
	}
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t", CreateTable: true}}, simpleFields)
	if r.at[0].Offset != 40 || r.at[1].Offset != 41 {
		t.Errorf("starts at %+v", r.at)
	}
	r.write(row{"d", 1, 2.0})
	d.want("SELECT target FROM penstock_flow", "public.t")
}

func TestSettingPositionsSaysWhoIsInTheWay(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	pid, release := d.hold("SELECT 1 FROM penstock_checkpoint FOR UPDATE")
	defer release()
	s := d.letterLog(d.url).sink
	s.cfg.LockTimeout = 10 * time.Millisecond
	err := s.SetPositions(t.Context(), r.setup, []flow.Position{positionAt(0, 40)})
	wantError(t, err, flow.ClassTransient, "held by process "+pid, "stop the flow")
}

func TestForgottenFlowsLeaveNothing(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	s := d.letterLog(d.url).sink
	if err := s.Forget(t.Context(), flow.Setup{Flow: "test"}); err != nil {
		t.Fatalf("before there is anything: %v", err)
	}
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t"}}
	d.open(cfg, simpleFields)
	d.flow = "kept"
	kept := d.open(cfg, simpleFields)
	for range 2 {
		if err := s.Forget(t.Context(), flow.Setup{Flow: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	kept.write(row{"d", 1, 2.0})
	d.want("SELECT DISTINCT flow FROM penstock_checkpoint UNION ALL SELECT flow FROM penstock_flow", "kept", "kept")
	role, url := d.role()
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	err := d.letterLog(url).sink.Forget(t.Context(), flow.Setup{Flow: "kept"})
	wantError(t, err, flow.ClassFatal, "GRANT SELECT, INSERT, UPDATE, DELETE ON public.penstock_flow TO "+role)
}
