package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var update = flag.Bool("update", false, "write the golden files")

// The connectors of the tests have one field of every kind.

type logConfig struct {
	Brokers []string       `yaml:"brokers" required:"true" doc:"Addresses."`
	Topics  []string       `yaml:"topics" doc:"Topics."`
	Pattern string         `yaml:"pattern" doc:"Topics by name."`
	Start   string         `yaml:"start" default:"earliest" enum:"earliest,latest,group" doc:"Where to start."`
	Session time.Duration  `yaml:"session_timeout" default:"45s" doc:"Session timeout."`
	Fetch   connect.Bytes  `yaml:"fetch" default:"4MiB" doc:"Fetch size."`
	SASL    *saslConfig    `yaml:"sasl" doc:"Login."`
	Check   bool           `yaml:"check" doc:"Check."`
	Ratio   float64        `yaml:"ratio" default:"0.5" doc:"Ratio."`
	Labels  map[string]int `yaml:"labels" doc:"Labels."`
	Group   string         `yaml:"group" doc:"Group. Default: the flow's name."`
}

type saslConfig struct {
	Mechanism string         `yaml:"mechanism" default:"PLAIN" enum:"PLAIN,SCRAM" doc:"Mechanism."`
	Username  string         `yaml:"username" required:"true" doc:"User."`
	Password  connect.Secret `yaml:"password" doc:"Password."`
}

func (c *saslConfig) Validate() error {
	if c.Password == "" {
		return connect.Errorf("password", "a login needs a password")
	}
	if strings.HasPrefix(string(c.Password), "bad") {
		return connect.Errorf("password", "the password %s is bad", string(c.Password))
	}
	return nil
}

func (c *logConfig) Validate() error {
	if len(c.Topics) == 0 && c.Pattern == "" {
		return errors.Join(connect.Errorf("topics", "which topics?"), connect.Errorf("topics", "said once"))
	}
	if i := slices.Index(c.Topics, "nope"); i >= 0 {
		return connect.Errorf(fmt.Sprintf("topics[%d]", i), "no such topic")
	}
	return nil
}

type columnsConfig struct {
	Columns []columnConfig `yaml:"columns" keyed:"Name" short:"Type" required:"true" doc:"Columns."`
}

type columnConfig struct {
	Name     string `yaml:"-"`
	Type     string `yaml:"type" required:"true" enum:"text,int8" doc:"Type."`
	Path     string `yaml:"path" doc:"Path."`
	Required bool   `yaml:"required" doc:"Required."`
}

func (c *columnConfig) Validate() error {
	if strings.HasPrefix(c.Path, ".") {
		return connect.Errorf("path", "a path does not begin with a dot")
	}
	return nil
}

type tableConfig struct {
	URL string `yaml:"url" secret:"true" required:"true" doc:"Address."`
	routeConfig

	Names  []string      `yaml:"-"`
	Routes []routeConfig `yaml:"-"`
}

type routeConfig struct {
	Table string   `yaml:"table" required:"true" doc:"Table."`
	Mode  string   `yaml:"mode" default:"append" enum:"append,ignore,upsert" doc:"Mode."`
	Key   []string `yaml:"key" doc:"Key."`

	CreateTable bool `yaml:"create_table" doc:"Create."`
}

func (c *tableConfig) Validate() error {
	var errs []error
	if !strings.Contains(c.URL, "://") {
		errs = append(errs, connect.Errorf("url", "%q is no address", c.URL))
	}
	for i, r := range c.Routes {
		if r.Table == "taken" {
			errs = append(errs, connect.Errorf(fmt.Sprintf("routes.%d.table", i), "is taken"))
		}
	}
	return errors.Join(errs...)
}

type noneConfig struct{}

type lettersConfig struct {
	Topic string `yaml:"topic" required:"true" doc:"Topic."`
}

type columnMaker struct {
	flow.Transform
	fields []flow.Field
}

func (c columnMaker) Fields() []flow.Field { return c.fields }

func testRegistry(tb testing.TB) *connect.Registry {
	tb.Helper()
	var r connect.Registry
	err := r.Add(
		connect.Source[logConfig]{
			Name: "log", Doc: "A log.",
			New: func(logConfig) (flow.Source, error) { return struct{ flow.Source }{}, nil },
			Complete: func(c *logConfig, with connect.Context) error {
				if c.Group == "" {
					c.Group = with.Flow
				}
				return nil
			},
		},
		connect.Decoder[columnsConfig]{
			Name: "json", Doc: "JSON.",
			New: func(c columnsConfig) (flow.Transform, error) {
				var m columnMaker
				for _, col := range c.Columns {
					if col.Name == "refused" {
						return nil, connect.Errorf("columns.refused.type", "not with this decoder")
					}
					m.fields = append(m.fields, flow.Field{Name: col.Name, Type: col.Type, Required: col.Required})
				}
				return m, nil
			},
		},
		connect.RoutedSink[tableConfig, routeConfig]{
			Sink: connect.Sink[tableConfig]{
				Name: "table", Doc: "A table.", NeedsColumns: true, StoresDeadLetters: true,
				New: func(tableConfig) (flow.Sink, error) { return struct{ flow.Sink }{}, nil },
				Complete: func(c *tableConfig, with connect.Context) error {
					return connect.CheckKey(c.Mode, c.Key, with)
				},
			},
			SetRoutes:     func(c *tableConfig, names []string, routes []routeConfig) { c.Names, c.Routes = names, routes },
			CompleteRoute: func(c *routeConfig, with connect.Context) error { return connect.CheckKey(c.Mode, c.Key, with) },
		},
		connect.Sink[noneConfig]{
			Name: "screen", Doc: "The screen.",
			New: func(noneConfig) (flow.Sink, error) { return struct{ flow.Sink }{}, nil },
		},
		connect.DeadLetters[lettersConfig]{
			Name: "log", Doc: "A topic.",
			New: func(lettersConfig) (flow.DeadLetterQueue, error) { return struct{ flow.DeadLetterQueue }{}, nil },
			Complete: func(c *lettersConfig, with connect.Context) error {
				if src, ok := with.Source.(*logConfig); ok && slices.Contains(src.Topics, c.Topic) {
					return connect.Errorf("topic", "%s is a topic of the source", c.Topic)
				}
				return nil
			},
		},
	)
	if err != nil {
		tb.Fatal(err)
	}
	return &r
}

func testOptions(tb testing.TB) Options {
	tb.Helper()
	return Options{
		Registry: testRegistry(tb),
		Environ: []string{
			"DATABASE_URL=postgres://app:hunter2@db/telemetry", "LOG_PASSWORD=hunter2", "BROKERS=a:1, b:2", "EMPTY=", "MANY=lots", "HOME=/",
		},
	}
}

const good = `flow: telemetry
source:
  log:
    brokers: [a:9092, "b:9092"]
    topics:
      - one
      - two
    start: latest
    session_timeout: 10s
    fetch: 1MiB
    ratio: 0.25
    check: true
    labels: {a: 1, b: 2}
    sasl:
      username: app
      password: ${LOG_PASSWORD}
decode:
  json:
    columns:
      device_id: text
      seq: {type: int8, path: meta.seq, required: true}
sink:
  table:
    url: ${DATABASE_URL}
    table: public.telemetry
    mode: upsert
    key: [device_id, seq]
batch: {records: 5000, wait: 1ms}
shutdown:
  grace: 5s
`

func TestLoad(t *testing.T) {
	f, err := Load("flow.yaml", []byte(good), testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	src := logConfig{
		Brokers: []string{"a:9092", "b:9092"}, Topics: []string{"one", "two"}, Start: "latest", Session: 10 * time.Second,
		Fetch: 1 << 20, SASL: &saslConfig{Mechanism: "PLAIN", Username: "app", Password: "hunter2"},
		Check: true, Ratio: 0.25, Labels: map[string]int{"a": 1, "b": 2}, Group: "telemetry",
	}
	if diff := cmp.Diff(&src, f.Source.Config); diff != "" {
		t.Error(diff)
	}
	cols := columnsConfig{Columns: []columnConfig{{Name: "device_id", Type: "text"}, {Name: "seq", Type: "int8", Path: "meta.seq", Required: true}}}
	if diff := cmp.Diff(&cols, f.Decode.Config); diff != "" {
		t.Error(diff)
	}
	sink := tableConfig{URL: "postgres://app:hunter2@db/telemetry", routeConfig: routeConfig{Table: "public.telemetry", Mode: "upsert", Key: []string{"device_id", "seq"}}}
	if diff := cmp.Diff(&sink, f.Sink.Config, cmp.AllowUnexported(tableConfig{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Writing{{Table: "public.telemetry", Mode: "upsert", Key: sink.Key}}, f.Writings()); diff != "" {
		t.Error(diff)
	}
	cfg, err := f.Build(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := flow.BatchLimits{Records: 5000, Bytes: 16 << 20, Wait: time.Millisecond, Timeout: 30 * time.Second}
	if cfg.Batch != want || cfg.ShutdownGrace != 5*time.Second || cfg.Buffer != 32<<20 || cfg.Retry.UnknownAttempts != 10 || cfg.Transforms == nil {
		t.Errorf("built %+v", cfg)
	}
}

func TestNewTopicsThatNoRouteTakesAreWarnedOf(t *testing.T) {
	text := strings.Replace(routed, "topics: [orders, orders.eu, users]", "pattern: ^(orders|users)", 1)
	others := func(pattern string) string {
		return "routes.others={pattern: \"" + pattern + "\", decode: {json: {columns: {id: int8}}}, sink: {table: others}}"
	}
	const want = `flow.yaml:3:34: warning: source.log.pattern: a new topic that matches it and that no route takes stops the flow
  3 |   log: {brokers: [a:1], pattern: ^(orders|users)}
    |                                  ^
    add a last route that takes every other topic, like others: {pattern: .*, ...}
`
	for last, want := range map[string]string{
		"": want, "^ord": want, "^.$": want, ".*": "", "^.+$": "", "^(orders|users)": "", "^[a-zA-Z0-9._-]+$": "",
	} {
		o := testOptions(t)
		if last != "" {
			o.Set = []string{others(last)}
		}
		f, err := Load("flow.yaml", []byte(text), o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.Warnings.Text()); diff != "" {
			t.Errorf("last route %q: %s", last, diff)
		}
	}
}

const routed = `flow: shop
source:
  log: {brokers: [a:1], topics: [orders, orders.eu, users]}
routes:
  orders:
    pattern: ^orders
    decode: {json: {columns: {id: int8}}}
    sink: {table: orders}
  users:
    topics: [users]
    decode: {json: {columns: {id: int8, name: text}}}
    sink: {table: users, mode: upsert, key: [id]}
sink: {table: {url: "x://y"}}
`

func TestRoutes(t *testing.T) {
	o := testOptions(t)
	o.Set = []string{"routes.orders.sink.mode=ignore", "routes.orders.sink.key=id", "routes.users.topics=users"}
	f, err := Load("flow.yaml", []byte(routed), o)
	if err != nil {
		t.Fatal(err)
	}
	id := []string{"id"}
	sink := tableConfig{
		URL: "x://y", routeConfig: routeConfig{Mode: "append"}, Names: []string{"orders", "users"},
		Routes: []routeConfig{{Table: "orders", Mode: "ignore", Key: id}, {Table: "users", Mode: "upsert", Key: id}},
	}
	if diff := cmp.Diff(&sink, f.Sink.Config, cmp.AllowUnexported(tableConfig{})); diff != "" {
		t.Error(diff)
	}
	want := []Writing{{Route: "orders", Table: "orders", Mode: "ignore", Key: id}, {Route: "users", Table: "users", Mode: "upsert", Key: id}}
	if diff := cmp.Diff(want, f.Writings()); diff != "" {
		t.Error(diff)
	}
	cfg, err := f.Build(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Transforms != nil || len(cfg.Routes) != 2 {
		t.Fatalf("built %+v", cfg)
	}
	for topic, takes := range map[string][]bool{"orders": {true, false}, "orders.us": {true, false}, "users": {false, true}, "users2": {false, false}} {
		if got := []bool{cfg.Routes[0].Match(topic), cfg.Routes[1].Match(topic)}; !slices.Equal(got, takes) {
			t.Errorf("%s takes %v, want %v", topic, got, takes)
		}
	}
	ts, err := cfg.Routes[1].Transforms(0)
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := ts[0].(columnMaker); !ok || len(m.fields) != 2 || m.fields[1].Name != "name" {
		t.Errorf("the transforms of users are %+v", ts)
	}
}

func configOf[C any](t *testing.T, c connect.Choice) *C {
	t.Helper()
	cfg, ok := c.Config.(*C)
	if !ok {
		t.Fatalf("the configuration is a %T", c.Config)
	}
	return cfg
}

func TestPrecedence(t *testing.T) {
	o := testOptions(t)
	o.Environ = append(o.Environ,
		"PENSTOCK_SOURCE_LOG_BROKERS=x:1,y:2", "PENSTOCK_BATCH_RECORDS=7", "PENSTOCK_BATCH_WAIT=2ms", "PENSTOCK_LANES=",
		"PENSTOCK_SOURCE_LOG_SASL_PASSWORD=other", "PENSTOCK_SINK_SCREEN_X=1", "PENSTOCK_BATCH_RECRODS=1", "PENSTOCK_SERVICE_HOST=10.0.0.1")
	o.Set = []string{"batch.records=9", "source.log.topics=[p, q]", "decode.json.columns.seq.type=text", "decode.json.columns.device_id.path=id", "retry={initial: 1s}"}
	f, err := Load("flow.yaml", []byte(good), o)
	if err != nil {
		t.Fatal(err)
	}
	src, cols := configOf[logConfig](t, f.Source), configOf[columnsConfig](t, f.Decode).Columns
	got := []any{f.Batch.Records, f.Batch.Wait, src.Brokers, src.Topics, src.SASL.Password.Reveal(), cols[1].Type, cols[1].Path, cols[0].Type, cols[0].Path, f.Retry.Initial}
	want := []any{
		9, 2 * time.Millisecond, []string{"x:1", "y:2"}, []string{"p", "q"}, "other", "text", "meta.seq", "text", "id", time.Second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	warned := f.Warnings.Error()
	for _, part := range []string{"PENSTOCK_BATCH_RECRODS: ignored: it sets no field of a flow file; did you mean PENSTOCK_BATCH_RECORDS?", "PENSTOCK_SINK_SCREEN_X"} {
		if !strings.Contains(warned, part) {
			t.Errorf("warnings %q lack %q", warned, part)
		}
	}
	if strings.Contains(warned, "SERVICE_HOST") {
		t.Errorf("a variable of somebody else's is warned of: %q", warned)
	}
}

func TestSetReplacesTheConnector(t *testing.T) {
	o := testOptions(t)
	o.Set = []string{"sink.screen={}", "dead_letters.log.topic=dead"}
	o.Environ = append(o.Environ, "PENSTOCK_SINK_TABLE_TABLE=other")
	f, err := Load("flow.yaml", []byte(good), o)
	if err != nil {
		t.Fatal(err)
	}
	if f.Sink.Connector.Name != "screen" || configOf[lettersConfig](t, f.DeadLetters).Topic != "dead" {
		t.Errorf("sink %s", f.Sink.Connector.Name)
	}
}

func TestInterpolation(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(good, "${LOG_PASSWORD}", "${file:"+secret+"}")
	text = strings.ReplaceAll(text, `[a:9092, "b:9092"]`, "${BROKERS}")
	text = strings.ReplaceAll(text, "public.telemetry", "a$$b${EMPTY:-c}$${x}^d$")
	text = strings.ReplaceAll(text, "records: 5000", `records: "${NONE:-12}"`)
	f, err := Load("flow.yaml", []byte(text), testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	src := configOf[logConfig](t, f.Source)
	got := []any{src.SASL.Password.Reveal(), src.Brokers, configOf[tableConfig](t, f.Sink).Table, f.Batch.Records}
	if diff := cmp.Diff([]any{"from file", []string{"a:1", "b:2"}, "a$bc${x}^d$", 12}, got); diff != "" {
		t.Error(diff)
	}
}

// TestFindings reads testdata/*.yaml and compares what is said of each with the
// golden file beside it. Comment lines "#set x" and "#env x" at the top give
// flags and variables.
func TestFindings(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Errorf("%d cases, want at least 40", len(files))
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			o := testOptions(t)
			for line := range strings.Lines(string(data)) {
				if s, ok := strings.CutPrefix(line, "#set "); ok {
					o.Set = append(o.Set, strings.TrimSpace(s))
				}
				if s, ok := strings.CutPrefix(line, "#env "); ok {
					o.Environ = append(o.Environ, strings.TrimSpace(s))
				}
			}
			_, err = Load(name, data, o)
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error %v, want findings", err)
			}
			got := ps.Text()
			if all := got + ps.Error() + fmt.Sprintf("%+v", err); strings.Contains(all, "hunter2") {
				t.Errorf("a secret is shown:\n%s", all)
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestColonWithoutSpaceIsText(t *testing.T) {
	o := testOptions(t)
	for section, want := range map[string][]string{
		"{brokers: [localhost:9092, 10.0.0.1:1, \"q:1\", h:1:2], topics: [t]}": {"localhost:9092", "10.0.0.1:1", "q:1", "h:1:2"},
		"{topics: [t], brokers: [ ::1:9092 , fe80::1, http://x:1/y, a]}":       {"::1:9092", "fe80::1", "http://x:1/y", "a"},
		"{topics: [t], brokers: [1:2,\n    true:x]}":                           {"1:2", "true:x"},
	} {
		text := strings.Replace(good, good[strings.Index(good, "  log:"):strings.Index(good, "decode:")], "  log: "+section+"\n", 1)
		f, err := Load("flow.yaml", []byte(text), o)
		if err != nil {
			t.Errorf("%s: %v", section, err)
			continue
		}
		if diff := cmp.Diff(want, configOf[logConfig](t, f.Source).Brokers); diff != "" {
			t.Errorf("%s: %s", section, diff)
		}
		o := testOptions(t)
		o.Set = []string{"source.log=" + section}
		f, err = Load("flow.yaml", []byte(good), o)
		if err != nil {
			t.Errorf("--set %s: %v", section, err)
			continue
		}
		if diff := cmp.Diff(want, configOf[logConfig](t, f.Source).Brokers); diff != "" {
			t.Errorf("--set %s: %s", section, diff)
		}
	}
}

func TestLargeFilesAreRefusedBeforeTheyAreParsed(t *testing.T) {
	var b strings.Builder
	b.WriteString("flow: x\n")
	for i := range 80_000 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	_, err := Load("flow.yaml", []byte(b.String()), testOptions(t))
	if err == nil || !strings.Contains(err.Error(), "the file is too large: it has more than 20000") {
		t.Errorf("error %.300v", err)
	}
}

func TestCountTellsWhatIsNotShown(t *testing.T) {
	var b strings.Builder
	b.WriteString(good)
	for i := range 1000 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	_, err := Load("flow.yaml", []byte(b.String()), testOptions(t))
	var ps Problems
	if !errors.As(err, &ps) || ps.Count() != 1000 || len(ps) != maxProblems+1 {
		t.Errorf("%d findings, %d of them shown", ps.Count(), len(ps))
	}
}

func TestSchemaAndReferenceNameEveryField(t *testing.T) {
	r := testRegistry(t)
	schema, err := JSONSchema(r)
	if err != nil {
		t.Fatal(err)
	}
	page, err := Reference(r)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := SettablePaths(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		name := p[strings.LastIndexByte(p, '.')+1:]
		if !strings.Contains(string(schema), fmt.Sprintf("%q: {", name)) {
			t.Errorf("the schema lacks %s", p)
		}
		if !strings.Contains(page, name+"` |") {
			t.Errorf("the page lacks %s", p)
		}
	}
	// With routes the table is theirs.
	type rule struct {
		Then struct {
			Then, Else struct{ Properties map[string]any }
		}
	}
	var rules struct{ AllOf []rule }
	if err := json.Unmarshal(schema, &rules); err != nil {
		t.Fatal(err)
	}
	section := func(own any) map[string]any {
		return map[string]any{"properties": map[string]any{"table": own}}
	}
	i := slices.IndexFunc(rules.AllOf, func(r rule) bool { return r.Then.Then.Properties != nil })
	routed, plain := rules.AllOf[i].Then.Then.Properties, rules.AllOf[i].Then.Else.Properties
	if diff := cmp.Diff(section(map[string]any{"properties": map[string]any{"table": false, "mode": false, "key": false, "create_table": false}}), routed["sink"]); diff != "" || routed["routes"] == nil {
		t.Errorf("with routes: %s", diff)
	}
	if diff := cmp.Diff(section(map[string]any{"required": []any{"table"}}), plain["sink"]); diff != "" {
		t.Errorf("without: %s", diff)
	}
	const own = "`table`, `mode`, `key`, `create_table` are fields of each route's sink section"
	if !strings.Contains(page, own) {
		t.Errorf("the page lacks %q", own)
	}
	for _, name := range []string{"table", "batch", "sink", "routes"} {
		if text := explained(t, r, name); !strings.Contains(text, name) {
			t.Errorf("explain %s: %q", name, text)
		}
	}
	if text := explained(t, r, "nothing"); text != "" {
		t.Errorf("explain nothing: %q", text)
	}
}
