package doctor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/internal/doctor"
	"github.com/penstockdev/penstock/internal/testservice"
)

const orders = `flow: %s
source:
  kafka:
    brokers: [%s]
    topics: [%[1]s]
decode:
  json:
    columns:
      id: int8
      customer: text
sink:
  postgres:
    url: ${DB}
    table: %[3]s
`

// A topic and a table that are there are right; those that are not are findings at their
// lines, and nothing is made of them.
func TestRealServicesAreCheckedWhereTheFileNamesThem(t *testing.T) {
	kafka, db, topic := testservice.Kafka(t), testservice.Postgres(t), testservice.Name(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(t.Context(), 2, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	testservice.AwaitTopic(t, admin, topic, 2)
	conn, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE orders (id int8 PRIMARY KEY, customer text)"); err != nil {
		t.Fatal(err)
	}
	registry, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	load := func(name, topic, table string) doctor.File {
		f, err := config.Load(name, fmt.Appendf(nil, orders, topic, kafka, table), config.Options{Registry: registry, Environ: []string{"DB=" + db}})
		if err != nil {
			t.Fatal(err)
		}
		return doctor.File{Path: name, Flow: f}
	}

	reports := doctor.Services(t.Context(), []doctor.File{load("good.yaml", topic, "orders"), load("bad.yaml", topic+"_other", "invoices")}, 20*time.Second)

	for i, want := range [][]string{nil, {"bad.yaml:5:14: topic " + topic + "_other: ", "bad.yaml:14:12: table public.invoices: "}} {
		var failed []string
		for _, p := range reports[i].Findings() {
			if p.Severity == config.SeverityError {
				failed = append(failed, p.Error())
			}
		}
		if len(failed) != len(want) || len(reports[i].Services) != 2 {
			t.Errorf("%s: %q failed, want %q", reports[i].File, failed, want)
			continue
		}
		for k := range want {
			if !strings.HasPrefix(failed[k], want[k]) {
				t.Errorf("got  %s\nwant %s", failed[k], want[k])
			}
		}
	}
	topics, err := admin.ListTopics(t.Context(), topic+"_other")
	if err != nil || topics.Has(topic+"_other") {
		t.Errorf("the topic was made, or %v", err)
	}
	var tables int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&tables); err != nil || tables != 1 {
		t.Errorf("%d tables, want the one; %v", tables, err)
	}
}
