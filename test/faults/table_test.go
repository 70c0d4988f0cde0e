package faults

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// paddedTable is the rigs' table with a column that their check does not need.
const paddedTable = "CREATE TABLE t (row_id bigint GENERATED ALWAYS AS IDENTITY, device_id text, seq bigint, part int, off bigint, pad text)"

const paddedColumns = `      device_id: {type: text, required: true}
      seq: {type: int8, required: true}
      part: {type: int4, from: partition}
      off: {type: int8, from: offset}
      pad: {type: text}
`

// padded is a rig of the topic whose table is paddedTable, and a careless
// control with such a table of its own. database makes the two.
func padded(t *testing.T, database func() *rig.Target) (*rig.Rig, *careless) {
	t.Helper()
	topic := rig.NewTopic(t, testservice.Kafka(t))
	r := rig.New(t, topic, database())
	r.Columns = paddedColumns
	return r, startCareless(t, topic, database())
}

// TestDiskFull leaves no byte on the database's disk under load, and frees it
// later: the flow waits, says why, and goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgresOnDisk(t, 128)
	r, control := padded(t, func() *rig.Target { return rig.PostgresAt(t, server.URL(), paddedTable) })
	stop := r.Topic.Flow(100, 50*time.Millisecond)
	defer stop()
	p, admin := r.StartWithAdmin("")
	r.WantProgress(500, time.Minute, p)
	n := p.Log.Len()
	server.FillDisk()
	advised(t, p, admin, n, "No space left on device", "free space", "goes on by itself")
	control.await(3)
	if !p.Alive() {
		t.Errorf("the flow has stopped; it should wait for room:\n%s", p.Log.Tail())
	}
	server.FreeDisk()
	r.WantProgress(500, time.Minute, p)
	stop()
	r.Finish(p)
	control.wantCaught()
}

// roleTarget is a database whose table belongs to somebody else than the role
// that the flow connects as.
func roleTarget(t *testing.T) *rig.Target {
	t.Helper()
	as := testservice.PostgresTLS(t).PlainURL
	u, err := url.Parse(as)
	if err != nil {
		t.Fatal(err)
	}
	role := u.User.Username()
	u.User, u.RawQuery = url.User("postgres"), "sslmode=disable"
	d := rig.PostgresAt(t, u.String(), paddedTable)
	d.Exec("GRANT SELECT, INSERT ON t TO " + role)
	d.URL = as + "?sslmode=disable"
	return d
}

// TestTableChanges takes a right and columns away under load, and gives them
// back: where a person must act the flow stops, saying what to do, and nothing is
// lost once it was done. A column that it does not write and that needs no value is no
// reason to stop.
func TestTableChanges(t *testing.T) {
	t.Parallel()
	r, control := padded(t, func() *rig.Target { return roleTarget(t) })
	stop := r.Topic.Flow(50, 50*time.Millisecond)
	defer stop()
	p := r.Start("")
	r.WantProgress(200, time.Minute, p)

	both := func(query string) {
		r.Target.Exec(query)
		control.target.Exec(query)
	}
	both("ALTER TABLE t ADD COLUMN nullable int")
	both("ALTER TABLE t ADD COLUMN defaulted int NOT NULL DEFAULT 7")
	r.WantProgress(500, time.Minute, p)

	for _, change := range []struct {
		name, do, undo string
		// says is what the flow says when it is done, refuses what a flow says that is started then.
		says, refuses []string
	}{
		{
			"right revoked", "REVOKE INSERT ON t FROM app", "GRANT INSERT ON t TO app",
			[]string{"permission denied for table t", "GRANT INSERT ON public.t TO app"},
			[]string{"GRANT INSERT", "ON public.t"},
		},
		{
			"column that needs a value", "ALTER TABLE t ADD COLUMN needed int NOT NULL DEFAULT 0; ALTER TABLE t ALTER COLUMN needed DROP DEFAULT",
			"ALTER TABLE t ALTER COLUMN needed SET DEFAULT 0",
			[]string{"needed", "NOT NULL", "default"},
			[]string{"needed", "NOT NULL", "default"},
		},
		{
			"column dropped", "ALTER TABLE t DROP COLUMN pad", "ALTER TABLE t ADD COLUMN pad text",
			[]string{"pad", "changed while the flow runs"},
			[]string{"pad"},
		},
	} {
		n := p.Log.Len()
		both(change.do)
		control.await(1)
		wantStop(t, change.name, p, n, change.says)
		p = r.Start("")
		wantStop(t, change.name+", started again", p, 0, change.refuses)
		if letters, bad := r.Target.DeadCount(), malformed(r.Topic); letters > bad {
			t.Errorf("%s: %d dead letters of %d malformed records: good ones became dead letters", change.name, letters, bad)
		}
		both(change.undo)
		p = r.Start("")
		r.WantProgress(200, time.Minute, p)
	}
	stop()
	r.Finish(p)
	control.wantCaught()
}

// malformed is how many malformed records were produced.
func malformed(topic *rig.Topic) int {
	_, dead := topic.Expected()
	return dead
}

// wantStop waits until a process has stopped with an error, and checks that its
// last words, after its first n bytes, have these in them.
func wantStop(t *testing.T, what string, p *rig.Process, n int, words []string) {
	t.Helper()
	if !p.Wait(40 * time.Second) {
		t.Fatalf("%s: the flow does not stop:\n%s", what, p.Log.Tail())
	}
	if p.Err == nil {
		t.Errorf("%s: the flow ended as if all were well:\n%s", what, p.Log.Tail())
	}
	advised(t, p, "", n, words...)
}

// TestTableLocked holds the table for longer than an attempt to write may take, as
// a long ALTER TABLE does: the flow waits, says what for, and goes on by itself.
func TestTableLocked(t *testing.T) {
	t.Parallel()
	r, control := padded(t, func() *rig.Target { return rig.PostgresAt(t, testservice.Postgres(t), paddedTable) })
	stop := r.Topic.Flow(100, 50*time.Millisecond)
	defer stop()
	p, admin := r.StartWithAdmin("")
	r.WantProgress(500, time.Minute, p)
	n := p.Log.Len()
	unlock := []func(){alter(t, r.Target), alter(t, control.target)}
	control.await(1)
	advised(t, p, admin, n, "waited for a lock", "public.t", "ALTER TABLE")
	if !p.Alive() {
		t.Errorf("the flow has stopped; it should wait:\n%s", p.Log.Tail())
	}
	for _, u := range unlock {
		u()
	}
	r.WantProgress(500, time.Minute, p)
	stop()
	r.Finish(p)
	control.wantCaught()
}

// alter begins an ALTER TABLE, which end commits.
func alter(t *testing.T, d *rig.Target) (end func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "BEGIN; ALTER TABLE t ALTER COLUMN pad TYPE varchar(200)"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
	}
}
