// Package deploy_test checks what is deployed beside Penstock: alert rules, recording rules and
// dashboards, against a process that runs, and against the page that explains them.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// rule is an alert or a recording rule.
type rule struct {
	Alert       string            `yaml:"alert"`
	Record      string            `yaml:"record"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func (r *rule) name() string { return r.Alert + r.Record }

func rules(t *testing.T) []rule {
	t.Helper()
	var out []rule
	for _, path := range files(t, "prometheus/rules/*.yaml") {
		var f struct {
			Groups []struct {
				Rules []rule `yaml:"rules"`
			} `yaml:"groups"`
		}
		if err := yaml.Unmarshal(read(t, path), &f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, g := range f.Groups {
			out = append(out, g.Rules...)
		}
	}
	return out
}

// dashboard is what is looked at of Grafana's model.
type dashboard struct {
	path          string
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	GridPos struct{ H, W, X, Y int } `json:"gridPos"`
	Targets []struct {
		Expr       string `json:"expr"`
		Datasource struct {
			Type string `json:"type"`
			UID  string `json:"uid"`
		} `json:"datasource"`
	} `json:"targets"`
}

func dashboards(t *testing.T) []dashboard {
	t.Helper()
	var out []dashboard
	for _, path := range files(t, "grafana/dashboards/*.json") {
		d := dashboard{path: path}
		if err := json.Unmarshal(read(t, path), &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, d)
	}
	return out
}

// exprs are the queries of the dashboards, with variables as Grafana would fill them in.
func exprs(ds []dashboard) map[string]string {
	fill := strings.NewReplacer("$__rate_interval", "5m", "$flow", "orders", "$host", "h")
	out := map[string]string{}
	for _, d := range ds {
		for _, p := range d.Panels {
			for i, target := range p.Targets {
				out[fmt.Sprintf("%s, panel %s, query %d", d.path, p.Title, i+1)] = fill.Replace(target.Expr)
			}
		}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				out[d.path+", variable "+v.Name] = string(v.Query)
			}
		}
	}
	return out
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no files: %v", pattern, err)
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), testservice.Promtool(t), args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusAcceptsTheRules(t *testing.T) {
	t.Parallel()
	promtool(t, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files(t, "prometheus/rules/*.yaml")...)...)
	promtool(t, "check", "config", "prometheus/prometheus.yaml")
}

func TestTheRulesPassTheirTests(t *testing.T) {
	t.Parallel()
	promtool(t, append([]string{"test", "rules"}, files(t, "prometheus/tests/*.yaml")...)...)
}

// A person who gets an alert is told what it is about, which command shows the cause, and where the
// manual explains it; and a test shows that it fires and that it does not.
func TestEveryAlertIsExplainedAndTested(t *testing.T) {
	t.Parallel()
	manual := string(read(t, "../docs/alerts.md"))
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, path := range files(t, "prometheus/tests/*.yaml") {
		var f struct {
			Tests []struct {
				Alerts []struct {
					Name string `yaml:"alertname"`
					Want []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			} `yaml:"tests"`
		}
		if err := yaml.Unmarshal(read(t, path), &f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, tt := range f.Tests {
			for _, a := range tt.Alerts {
				fires[a.Name] = fires[a.Name] || len(a.Want) > 0
				silent[a.Name] = silent[a.Name] || len(a.Want) == 0
			}
		}
	}
	const page = "https://github.com/penstockdev/penstock/blob/main/docs/alerts.md#"
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: tested that it fires %t, that it does not %t", r.Alert, fires[r.Alert], silent[r.Alert])
		}
		if !strings.Contains(manual, "\n### "+r.Alert+"\n") || r.Annotations["runbook_url"] != page+strings.ToLower(r.Alert) {
			t.Errorf("%s: not in docs/alerts.md, or not linked there: %s", r.Alert, r.Annotations["runbook_url"])
		}
		for _, annotation := range []string{"summary", "description", "command"} {
			if r.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", r.Alert, annotation)
			}
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
	}
	for _, anchor := range regexp.MustCompile(`\(#(penstock[a-z]+)\)`).FindAllStringSubmatch(manual, -1) {
		if !strings.Contains(strings.ToLower(manual), "\n### "+anchor[1]+"\n") {
			t.Errorf("docs/alerts.md links to #%s, which it does not have", anchor[1])
		}
	}
}

func TestGrafanaAcceptsTheDashboards(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	ds := dashboards(t)
	for _, d := range ds {
		if d.UID == "" || seen[d.UID] || d.Title == "" || d.SchemaVersion < 39 {
			t.Errorf("%s: uid %q (seen %t), title %q, schema version %d", d.path, d.UID, seen[d.UID], d.Title, d.SchemaVersion)
		}
		seen[d.UID] = true
		if len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Name != "datasource" {
			t.Errorf("%s: its Prometheus cannot be chosen", d.path)
		}
		ids := map[int]bool{}
		for i, p := range d.Panels {
			if ids[p.ID] || p.ID == 0 || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: panel %d %q at %+v", d.path, p.ID, p.Title, p.GridPos)
			}
			ids[p.ID] = true
			for _, q := range d.Panels[:i] {
				a, b := p.GridPos, q.GridPos
				if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					t.Errorf("%s: %q covers %q", d.path, p.Title, q.Title)
				}
			}
			if p.Type == "row" {
				continue
			}
			if p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
				t.Errorf("%s: %q has no unit, or asks for nothing", d.path, p.Title)
			}
			for _, target := range p.Targets {
				if target.Datasource.Type != "prometheus" || target.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %q asks %+v", d.path, p.Title, target.Datasource)
				}
			}
		}
	}

	// Prometheus' own parser reads the queries, as rules of a file.
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboards\n  rules:\n")
	n := 0
	for where, expr := range exprs(ds) {
		if strings.Contains(where, ", variable ") {
			continue
		}
		quoted, err := json.Marshal(expr)
		if err != nil {
			t.Fatal(err)
		}
		n++
		fmt.Fprintf(&b, "  # %s\n  - {record: query:n%d, expr: %s}\n", where, n, quoted)
	}
	path := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}

// Metrics that no longer exist make an alert silent, and a panel empty: so every name is one of a process that
// runs, or one that a rule records.
func TestEveryMetricThatIsAskedForExists(t *testing.T) {
	t.Parallel()
	topic := rig.NewTopic(t, testservice.Kafka(t))
	r := rig.New(t, topic, rig.SQLite(t))
	topic.Produce(300)
	p, admin := r.StartWithAdmin("")
	r.Settle(time.Minute, p)
	exists := scrape(t, "http://"+admin+"/metrics")
	p.Stop(20 * time.Second)

	asked := exprs(dashboards(t))
	asked["the analysis of a Rollout"] = string(read(t, "argo-rollouts/rollout.yaml"))
	for _, r := range rules(t) {
		asked[r.name()] = r.Expr
		for name, text := range r.Annotations {
			if name != "runbook_url" {
				asked[r.name()+", "+name] = text
			}
		}
		if r.Record != "" {
			exists[r.Record] = true
		}
	}
	named := regexp.MustCompile(`\b(?:penstock[:_]|go_|process_)[a-z0-9_:]+`)
	checked := 0
	for where, expr := range asked {
		for _, name := range named.FindAllString(expr, -1) {
			if name == "go_version" { // a label
				continue
			}
			checked++
			if !exists[name] {
				t.Errorf("%s asks for %s, which a process does not have", where, name)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d names were found", checked)
	}
}

// scrape returns the names of the series of a process.
func scrape(t *testing.T, url string) map[string]bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "#") {
			name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			name, _, _ = strings.Cut(name, "{")
			names[name] = true
		}
	}
	return names
}
