package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The connectors of these tests say what they were asked with.

type logConfig struct {
	Away   bool `yaml:"away" doc:"The log does not answer."`
	Silent bool `yaml:"silent" doc:"It has no checks."`
}

type logSource struct {
	flow.Source
	cfg logConfig
}

func (s *logSource) Open(ctx context.Context) (*flow.Log, error) {
	if s.cfg.Away {
		<-ctx.Done()
		return nil, errors.New("nobody answers")
	}
	return &flow.Log{ClusterID: "c1", Name: "topics a", Partitions: make([]flow.PartitionInfo, 3)}, nil
}

func (s *logSource) Close(context.Context) error { return nil }

type checkedSource struct{ logSource }

func (s *checkedSource) Check(context.Context, flow.Setup) []connect.Check {
	return []connect.Check{{What: "topic a", Status: connect.CheckOK, Found: "3 partitions"}}
}

type tableConfig struct {
	Table string `yaml:"table" required:"true" doc:"Table."`
}

type table struct{ flow.Sink }

func (t *table) Close(context.Context) error { return nil }

func (t *table) Check(_ context.Context, s flow.Setup) []connect.Check {
	var columns []string
	for _, f := range s.Fields {
		columns = append(columns, f.Name)
	}
	return []connect.Check{
		{What: "setup", Status: connect.CheckOK, Found: s.Flow + " " + s.ClusterID + " " + s.Source + " " + strings.Join(columns, ",")},
		{What: "table orders", Status: connect.CheckFailed, Found: "there is none", Next: "create it", Field: "table"},
		{What: "column id", Status: connect.CheckWarning, Found: "is wider", Field: "columns.id"},
	}
}

type columnsConfig struct {
	Columns []struct {
		Name string `yaml:"-"`
		Type string `yaml:"type" required:"true" doc:"Type."`
	} `yaml:"columns" keyed:"Name" short:"Type" doc:"Columns."`
}

type decoder struct {
	flow.Transform
	fields []flow.Field
}

func (d decoder) Fields() []flow.Field { return d.fields }

const flowFile = `flow: shop
source: {log: {SOURCE}}
decode:
  json:
    columns: {id: int8, name: text}
sink:
  table: {table: orders}
`

func load(t *testing.T, source string) File {
	t.Helper()
	var r connect.Registry
	err := r.Add(
		connect.Source[logConfig]{Name: "log", Doc: "A log.", New: func(c logConfig) (flow.Source, error) {
			if c.Silent {
				return &logSource{cfg: c}, nil
			}
			return &checkedSource{logSource{cfg: c}}, nil
		}},
		connect.Decoder[columnsConfig]{Name: "json", Doc: "JSON.", New: func(c columnsConfig) (flow.Transform, error) {
			var d decoder
			for _, col := range c.Columns {
				d.fields = append(d.fields, flow.Field{Name: col.Name})
			}
			return d, nil
		}},
		connect.Sink[tableConfig]{Name: "table", Doc: "A table.", StoresDeadLetters: true, New: func(tableConfig) (flow.Sink, error) { return &table{}, nil }},
	)
	if err != nil {
		t.Fatal(err)
	}
	f, err := config.Load("shop.yaml", []byte(strings.Replace(flowFile, "SOURCE", source, 1)), config.Options{Registry: &r})
	if err != nil {
		t.Fatal(err)
	}
	return File{Path: "shop.yaml", Flow: f}
}

func TestASinkIsAskedWithItsColumnsAndTheCluster(t *testing.T) {
	for source, want := range map[string]string{"": "shop c1 topics a id,name", "silent: true": "shop c1 topics a id,name", "away: true": "shop   id,name"} {
		r := Services(t.Context(), []File{load(t, source)}, 200*time.Millisecond)
		if len(r) != 1 || len(r[0].Services) != 2 {
			t.Fatalf("%s: %+v", source, r)
		}
		if got := r[0].Services[1].Checks[0].Found; got != want {
			t.Errorf("{%s}: the sink was asked with %q, want %q", source, got, want)
		}
	}
}

func TestASourceWithoutChecksIsOpened(t *testing.T) {
	for source, want := range map[string]connect.Check{
		"silent: true":             {What: "reachable", Status: connect.CheckOK, Found: "topics a: 3 partitions"},
		"silent: true, away: true": {What: "reachable", Status: connect.CheckFailed, Found: "nobody answers"},
	} {
		r := Services(t.Context(), []File{load(t, source)}, 100*time.Millisecond)
		if diff := cmp.Diff([]connect.Check{want}, r[0].Services[0].Checks); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWhatFailedIsAFindingOfTheFile(t *testing.T) {
	r := Services(t.Context(), []File{load(t, "")}, time.Second)
	got := r[0].Findings().Text()
	want := `shop.yaml:7:18: table orders: there is none
  7 |   table: {table: orders}
    |                  ^
    create it
shop.yaml:5:19: warning: column id: is wider
  5 |     columns: {id: int8, name: text}
    |                   ^
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheReportSaysTheSameToPeopleAndPrograms(t *testing.T) {
	r := Run(t.Context(), "v1", []File{load(t, ""), load(t, "silent: true")}, time.Second)
	if r.Failed < 2 || r.Warnings < 2 || r.OK < 4 {
		t.Errorf("counted %d, %d, %d", r.Failed, r.Warnings, r.OK)
	}
	var text, doc bytes.Buffer
	if err := r.Table(&text); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(&doc).Encode(r); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(doc.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	n := 0
	every := func(checks []connect.Check) {
		for _, c := range checks {
			n++
			for _, part := range []string{string(c.Status), c.What, c.Found, c.Next} {
				if !strings.Contains(text.String(), part) {
					t.Errorf("%q is not in\n%s", part, text.String())
				}
			}
		}
	}
	for _, f := range back.Flows {
		for _, s := range f.Services {
			every(s.Checks)
		}
	}
	every(back.Machine)
	if n != r.OK+r.Warnings+r.Failed {
		t.Errorf("%d checks, counted %d", n, r.OK+r.Warnings+r.Failed)
	}
}

func TestMachine(t *testing.T) {
	const gib = 1 << 30
	good := machine{files: 65536, procs: 2, cores: 2, memory: 8 * gib, buffers: 32 << 20, flows: 1, clock: clock{known: true, synchronized: true, maxError: time.Millisecond}, window: 6 << 20}
	for name, c := range map[string]struct {
		change func(*machine)
		what   string
		status connect.CheckStatus
		says   string
	}{
		"good":                     {func(*machine) {}, "memory", connect.CheckOK, "expect up to 160 MiB"},
		"half a CPU":               {func(m *machine) { m.cores = 0.5 }, "CPU", connect.CheckWarning, "stands still"},
		"GOMAXPROCS set":           {func(m *machine) { m.procs = 16 }, "CPU", connect.CheckWarning, "throttled"},
		"a little more than a CPU": {func(m *machine) { m.cores = 1.5 }, "CPU", connect.CheckOK, "1.5 CPUs"},
		"no limit of CPU":          {func(m *machine) { m.cores, m.procs = 0, 64 }, "CPU", connect.CheckOK, "64 threads"},
		"small container":          {func(m *machine) { m.memory, m.container = 64<<20, true }, "memory", connect.CheckFailed, "the container may use 64 MiB"},
		"narrow container":         {func(m *machine) { m.memory, m.container = 128<<20, true }, "memory", connect.CheckWarning, "raise the limit to 160 MiB"},
		"few files":                {func(m *machine) { m.files = 256 }, "open files", connect.CheckWarning, "LimitNOFILE"},
		"no limit of files":        {func(m *machine) { m.files = unlimited }, "open files", connect.CheckOK, "no limit"},
		"clock alone":              {func(m *machine) { m.clock.synchronized = false }, "clock", connect.CheckWarning, "timedatectl"},
		"clock far":                {func(m *machine) { m.clock.maxError = 16 * time.Second }, "clock", connect.CheckWarning, "16s off"},
		"small window":             {func(m *machine) { m.window = 128 << 10 }, "TCP receive window", connect.CheckWarning, "tcp_rmem"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			c.change(&m)
			for _, got := range m.checks() {
				if got.What == c.what {
					if got.Status != c.status || !strings.Contains(got.Found+"\n"+got.Next, c.says) {
						t.Errorf("got %+v, want %s with %q", got, c.status, c.says)
					}
					return
				}
				if got.Status != connect.CheckOK {
					t.Errorf("besides: %+v", got)
				}
			}
			t.Errorf("there is no check of %s", c.what)
		})
	}
	if checks := (&machine{procs: 1}).checks(); len(checks) != 1 {
		t.Errorf("what cannot be known is told: %+v", checks)
	}
}

func TestAdminServer(t *testing.T) {
	serve := func(health int, healthText string, ready int, readyText string) string {
		mux := http.NewServeMux()
		answer := func(path string, status int, text string) {
			mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(text))
			})
		}
		answer("/healthz", health, healthText)
		answer("/readyz", ready, readyText)
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it is asked without TLS
	secure.StartTLS()
	t.Cleanup(secure.Close)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]struct {
		status connect.CheckStatus
		says   string
	}{
		free:                                    {connect.CheckOK, "free"},
		serve(200, "ok\n", 200, "ready\n"):      {connect.CheckOK, "is ready"},
		serve(200, "ok\n", 503, "broker away"):  {connect.CheckWarning, "broker away"},
		serve(503, "table away", 503, "failed"): {connect.CheckWarning, "failed"},
		serve(404, "", 404, ""):                 {connect.CheckWarning, "not Penstock"},
		serve(200, "<html>", 200, ""):           {connect.CheckWarning, "not Penstock"},
		secure.Listener.Addr().String():         {connect.CheckOK, "TLS"},
	} {
		if got := admin(t.Context(), address); got.Status != want.status || !strings.Contains(got.Found, want.says) {
			t.Errorf("got %+v, want %s with %q", got, want.status, want.says)
		}
	}
}

func TestTheRealMachineCanBeRead(t *testing.T) {
	checks := Machine(nil)
	if len(checks) == 0 || checks[0].What != "CPU" {
		t.Errorf("%+v", checks)
	}
}
