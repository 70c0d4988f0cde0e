package crash

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

const (
	badPostgresTable = `CREATE TABLE t (seq bigint UNIQUE, device_id text NOT NULL, temp smallint, price numeric(6,2), ts timestamptz, uid uuid,
		ok boolean, note text NOT NULL, off bigint)`
	badSQLiteTable = `CREATE TABLE t (seq INTEGER UNIQUE, device_id TEXT NOT NULL, temp INTEGER, price NUMERIC, ts TEXT, uid TEXT,
		ok INTEGER, note TEXT NOT NULL, off INTEGER)`
	badColumns = `      seq: int8
      device_id: {type: text, required: true}
      temp: int2
      price: numeric(6,2)
      ts: timestamptz
      uid: uuid
      ok: bool
      note: text
      off: {type: int8, from: offset}
`
	large = 20 << 20
)

// bad are records, and the classes of the dead letter that each may become. None
// means that it is a row.
var bad = []struct {
	name    string
	value   []byte // {} is filled up with what the record needs to be good
	classes []string
}{
	{"good", []byte(`{}`), nil},
	{"duplicate JSON keys: the last wins", []byte(`{"temp":99999,"temp":1}`), nil},
	{"cut off", []byte(`{"device_id":"a","seq":`), []string{"malformed"}},
	{"empty", []byte{}, []string{"malformed"}},
	{"trailing bytes", []byte(`{"device_id":"a","note":"n"} x`), []string{"malformed"}},
	{"tombstone", nil, []string{"tombstone"}},
	{"text where a number belongs", []byte(`{"temp":"warm"}`), []string{"type"}},
	{"number where text belongs", []byte(`{"device_id":5}`), []string{"type"}},
	{"fraction in an integer", []byte(`{"temp":1.5}`), []string{"type"}},
	{"no time", []byte(`{"ts":"yesterday"}`), []string{"type"}},
	{"no uuid", []byte(`{"uid":"12"}`), []string{"type"}},
	{"int2 out of range", []byte(`{"temp":40000}`), []string{"range"}},
	{"int8 out of range", []byte(`{"seq":9223372036854775808}`), []string{"range"}},
	{"numeric(6,2) out of range", []byte(`{"price":10000}`), []string{"range"}},
	{"null in a required column", []byte(`{"device_id":null}`), []string{"null"}},
	{"null in a NOT NULL column", []byte(`{"note":null}`), []string{"null", "constraint"}},
	{"NUL in text", []byte(`{"note":"a\u0000b"}`), []string{"encoding"}},
	{"invalid UTF-8", []byte("{\"note\":\"a\xffb\"}"), []string{"encoding"}},
	{"lone surrogate", []byte(`{"note":"\ud800"}`), []string{"encoding"}},
	{"key that is there already", []byte(`{"seq":1}`), []string{"constraint"}},
	{"20 MB", []byte(`{"note":"` + strings.Repeat("x", large) + `"}`), nil},
	{"20 MB, cut off", []byte(`{"note":"` + strings.Repeat("x", large)), []string{"malformed"}},
}

// fill completes a document with the fields that it does not have.
func fill(doc []byte, seq int) []byte {
	if !bytes.HasSuffix(doc, []byte("}")) {
		return doc
	}
	for _, field := range []string{fmt.Sprintf(`"seq":%d`, seq), `"device_id":"d"`, `"note":"n"`} {
		name, _, _ := strings.Cut(field, ":")
		if bytes.Contains(doc, []byte(name)) {
			continue
		}
		if len(doc) > 2 {
			field += ","
		}
		doc = slices.Concat([]byte("{"+field), doc[1:])
	}
	return doc
}

// TestBadData sends every kind of bad record between good ones, through one
// partition: the bad ones become dead letters, whole, and nothing else does.
func TestBadData(t *testing.T) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		badData(t, rig.PostgresAt(t, testservice.Postgres(t), badPostgresTable))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		badData(t, rig.SQLiteWith(t, badSQLiteTable))
	})
}

func badData(t *testing.T, d *rig.Target) {
	topic := rig.NewTopic(t, testservice.Kafka(t))
	r := rig.New(t, topic, d)
	wantRows := map[int64]string{}
	wantDead := map[int64]int{} // offset -> index in bad
	size := map[int64]int{}
	seq := 0
	send := func(value []byte) int64 {
		res := topic.Client.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Name, Key: []byte("one partition"), Value: value})
		if err := res.FirstErr(); err != nil {
			t.Fatal(err)
		}
		return res[0].Record.Offset
	}
	for range 2 { // a bad record may come again, and in the next batch
		for i, b := range bad {
			seq++
			if b.value == nil {
				wantDead[send(nil)] = i
			} else {
				value := fill(b.value, seq)
				off := send(value)
				size[off] = len(value)
				if b.classes == nil {
					wantRows[off] = b.name
				} else {
					wantDead[off] = i
				}
			}
			seq++
			wantRows[send(fill([]byte(`{}`), seq))] = "the good record after: " + b.name
		}
	}
	r.Columns = badColumns
	p := r.Start("")
	if !rig.Poll(t.Context(), 60*time.Second, func() bool {
		return !p.Alive() || d.RowCount() >= len(wantRows) && d.DeadCount() >= len(wantDead)
	}) || !p.Alive() {
		t.Errorf("%d of %d rows, %d of %d dead letters, process alive: %t\n%s", d.RowCount(), len(wantRows), d.DeadCount(), len(wantDead), p.Alive(), p.Log.Tail())
	}
	if p.Alive() {
		p.Stop(15 * time.Second)
	}
	d.Query("SELECT off FROM t", func(scan func(...any) error) error {
		var off int64
		err := scan(&off)
		if _, ok := wantRows[off]; !ok {
			t.Errorf("offset %d is a row, and should not be", off)
		}
		delete(wantRows, off)
		return err
	})
	for _, off := range slices.Sorted(maps.Keys(wantRows)) {
		t.Errorf("no row of offset %d: %s", off, wantRows[off])
	}
	d.Query(`SELECT "offset", class, message, coalesce(length(value), -1) FROM penstock_dead_letter ORDER BY "offset"`, func(scan func(...any) error) error {
		var off int64
		var class, message string
		var length int
		err := scan(&off, &class, &message, &length)
		i, ok := wantDead[off]
		switch {
		case !ok:
			t.Errorf("offset %d is a dead letter (%s: %s), and should not be", off, class, message)
		case !slices.Contains(bad[i].classes, class):
			t.Errorf("%s: class %s (%s), want one of %v", bad[i].name, class, message, bad[i].classes)
		case bad[i].value == nil && length != -1, bad[i].value != nil && length != size[off]:
			t.Errorf("%s: the dead letter holds %d bytes, the record %d", bad[i].name, length, size[off])
		}
		delete(wantDead, off)
		return err
	})
	for _, i := range wantDead {
		t.Errorf("no dead letter: %s", bad[i].name)
	}
}

// TestBadDataControl: one record that the table refuses stops the naive loop's
// partition for good.
func TestBadDataControl(t *testing.T) {
	t.Parallel()
	d := rig.Postgres(t)
	d.Exec("CREATE UNIQUE INDEX ON t (device_id, seq)")
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), d).Control("group")
	r.Topic.Produce(100)
	for range 2 {
		res := r.Topic.Client.ProduceSync(t.Context(), &kgo.Record{Topic: r.Topic.Name, Key: []byte("d00"), Value: []byte(`{"device_id":"d00","seq":1}`)})
		if err := res.FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	r.Topic.Produce(100)
	p := r.Start("")
	rows, _ := r.Topic.Expected()
	if rig.Poll(t.Context(), 5*time.Second, func() bool { return r.Target.RowCount() >= rows }) {
		t.Fatal("a naive loop got past a bad record: this test proves nothing")
	}
	if !p.Alive() {
		t.Fatalf("the control ended: %v\n%s", p.Err, p.Log.Tail())
	}
	t.Logf("the control was caught: %d of %d rows, for good", r.Target.RowCount(), rows)
}
