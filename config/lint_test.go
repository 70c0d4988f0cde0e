package config

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFilesOfAFolder(t *testing.T) {
	dir := folder(t, map[string]string{"b.yaml": "", "a.yml": "", ".hidden.yaml": "", "a.test.yaml": "", "c.txt": "", "sub/d.yaml": "", "empty/x": ""})
	if err := os.Symlink(filepath.Join(dir, "b.yaml"), filepath.Join(dir, "z.yaml")); err != nil {
		t.Fatal(err)
	}
	pipe, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "pipe.yaml")) // reading it would wait for a writer
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	got, err := Files([]string{dir, filepath.Join(dir, "b.yaml"), filepath.Join(dir, "c.txt")})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "a.yml"), filepath.Join(dir, "b.yaml"), filepath.Join(dir, "c.txt")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = Files([]string{filepath.Join(dir, "empty"), filepath.Join(dir, "none.yaml"), filepath.Join(dir, "a.yml")})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "empty: it holds no flow file") || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("error %v", err)
	}
	if len(got) != 1 {
		t.Errorf("what is there is not returned: %v", got)
	}
}

// lint returns the findings in one line each, without the folder.
func lint(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := folder(t, files)
	paths, err := Files([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	linted, err := Lint(paths, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range linted {
		for _, p := range l.Findings {
			b.WriteString(string(p.Severity) + " " + string(p.Rule) + " " + p.Error() + "\n")
		}
		own := func(p *Problem) bool {
			return p.Severity == SeverityError && p.Rule != RuleSharedName && p.Rule != RuleSharedGroup && p.Rule != RuleDoubledRows
		}
		if slices.ContainsFunc(l.Findings, own) != (l.Flow == nil) {
			t.Errorf("%s: a flow of a wrong file, or none of a right one", l.Path)
		}
	}
	return strings.ReplaceAll(b.String(), dir+string(filepath.Separator), "")
}

// file is a flow file in one line per section; the sixth line is the sink.
func file(name, source, sink string) string {
	return "flow: " + name + "\nsource: {log: {brokers: [a:1, b:1], " + source + "}}\ndecode: {json: {columns: {id: int8}}}\nsink: {table: {url: \"postgres://app:hunter2@db/x\", " + sink + "}}\n"
}

func TestFlowsThatCannotLiveBesideEachOther(t *testing.T) {
	base := file("one", "topics: [t, u]", "table: x")
	for name, c := range map[string]struct{ second, want string }{
		"apart":      {file("two", "topics: [v]", "table: x"), ""},
		"other rows": {file("two", "topics: [t]", "table: y"), ""},
		"name": {
			file("one", "topics: [v]", "table: z"),
			"error shared-name b.yaml:1:7: flow: \"one\" is the name of another flow, too: a.yaml:1:7\n",
		},
		"group": {
			file("two", "topics: [v], group: one", "table: z"),
			"error shared-group b.yaml:2:57: source.log.group: flow one reads as the same consumer group \"one\" (a.yaml:2:10): its members share the partitions out, so each flow gets only some of the records\n",
		},
		"rows": {
			file("two", "topics: [v, u]", "table: x"),
			"error doubled-rows b.yaml:4:59: sink.table.table: flow one writes topic u into table x as well (a.yaml:4:59): every record becomes two rows\n",
		},
		"another cluster": {strings.ReplaceAll(file("two", "topics: [t], group: one", "table: x"), "[a:1, b:1]", "[c:1]"), ""},
		"another database": {
			strings.ReplaceAll(file("two", "topics: [t]", "table: x"), "@db/x", "@db/y"), "",
		},
		"admin": {
			file("two", "topics: [v]", "table: z") + "admin: {address: 127.0.0.1:2}\n",
			"warning admin b.yaml:5:1: admin: differs from that of flow one (a.yaml:5:1): one process cannot run both\n",
		},
		"a wrong file is compared, too": {
			file("one", "topics: [v], sart: latest", "table: z"),
			"error shared-name b.yaml:1:7: flow: \"one\" is the name of another flow, too: a.yaml:1:7\n" +
				"error unknown-field b.yaml:2:50: source.log has no field \"sart\"; did you mean \"start\"?\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := lint(t, map[string]string{"a.yaml": base + "admin: {address: 127.0.0.1:1}\n", "b.yaml": c.second})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoFileHidesTheFindingsOfAnother(t *testing.T) {
	got := lint(t, map[string]string{
		"a.yaml": "flow: [", "b.yaml": file("b", "topics: [t]", "tabel: x"), "c.yaml": file("c", "topics: [t]", "table: x, mode: upset, kye: [id]"),
	})
	for _, want := range []string{"error syntax a.yaml:1:7", "unknown-field b.yaml:4:52", "not-allowed c.yaml:4:68", "unknown-field c.yaml:4:75"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

func TestWhatCannotBeReadSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("nowhere.yaml", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "link.yaml"): "cannot be read: it is a link to nowhere.yaml, which is not there; remove the link, or mend it",
		filepath.Join(dir, "none.yaml"): "cannot be read: no such file or directory; check the path, or write a first flow file with penstock init",
	} {
		linted, err := Lint([]string{path}, testOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		if p := linted[0].Findings[0]; p.Rule != RuleUnreadable || p.Error() != path+": "+want {
			t.Errorf("%+v", p)
		}
		if _, err := LoadFile(path, testOptions(t)); !errors.Is(err, fs.ErrNotExist) || err.Error() != "flow file "+path+": "+want {
			t.Errorf("got %v", err)
		}
	}
	if _, err := LoadFile(dir, testOptions(t)); err == nil || !strings.Contains(err.Error(), "it is a folder; name a file in it") {
		t.Errorf("got %v", err)
	}
}

func TestFindingsTellProgramsWhatToWrite(t *testing.T) {
	for text, want := range map[string]Problem{
		file("x", "topics: [t]", "tabel: t"):                          {Rule: RuleUnknownField, Suggestion: "table", Allowed: []string{"url", "table", "mode", "key", "create_table"}},
		file("x", "topics: [t]", "table: t, mode: upset"):             {Rule: RuleNotAllowed, Suggestion: "upsert", Allowed: []string{"append", "ignore", "upsert"}},
		file("x", "topics: [t], session_timeout: 10 sec", "table: t"): {Rule: RuleType, Suggestion: "10s"},
		file("x", "topics: [t], fetch: 4 Megabytes", "table: t"):      {Rule: RuleType, Suggestion: "4MB"},
		file("x", "topics: [t], check: Yes", "table: t"):              {Rule: RuleType, Suggestion: "true"},
		file("x", "topics: [t]", "table: t") + "lanes: 1_0\n":         {Rule: RuleType, Suggestion: "10"},
		file("x", "topics: [t]", "table: t") + "lanes: many\n":        {Rule: RuleType},
	} {
		_, err := Load("flow.yaml", []byte(text), testOptions(t))
		var ps Problems
		if !errors.As(err, &ps) || len(ps) != 1 {
			t.Fatalf("%s: error %v", text, err)
		}
		got := Problem{Rule: ps[0].Rule, Suggestion: ps[0].Suggestion, Allowed: ps[0].Allowed}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Problem{})); diff != "" {
			t.Errorf("%s: %s", ps[0].Error(), diff)
		}
	}
}

func TestWhatAServiceSaysIsAtItsField(t *testing.T) {
	plain, err := Load("flow.yaml", []byte(good), testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	routes, err := Load("routed.yaml", []byte(routed), testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flow        *Flow
		role        connect.Role
		field, want string
	}{
		{plain, connect.RoleSource, "topics.1", "flow.yaml:7:9"},
		{plain, connect.RoleSource, "topics[1]", "flow.yaml:7:9"},
		{plain, connect.RoleSource, "", "flow.yaml:3:3"},
		{plain, connect.RoleSource, "group", "flow.yaml:3:3"},
		{plain, connect.RoleSink, "table", "flow.yaml:25:12"},
		{plain, connect.RoleSink, "columns.seq", "flow.yaml:21:7"},
		{plain, connect.RoleSink, "columns.device_id", "flow.yaml:20:18"},
		{plain, connect.RoleDeadLetters, "topic", "flow.yaml:1:1"},
		{routes, connect.RoleSink, "routes.1.table", "routed.yaml:12:19"},
		{routes, connect.RoleSink, "routes.1.columns.name", "routed.yaml:11:47"},
		{routes, connect.RoleSink, "url", "routed.yaml:13:21"},
	} {
		p := c.flow.Finding(c.role, c.field, SeverityWarning, "it says hunter2 and postgres://app:hunter2@db/telemetry", "")
		if got, _, _ := strings.Cut(p.Error(), ": "); got != c.want {
			t.Errorf("%s %s: at %s, want %s", c.role, c.field, got, c.want)
		}
		if p.Severity != SeverityWarning || p.Rule != RuleService {
			t.Errorf("%+v", p)
		}
		if c.flow == plain && strings.Contains(p.Text(), "hunter2") {
			t.Errorf("a secret is shown: %s", p.Text())
		}
	}
}

func TestSetupIsWhatTheEngineWouldTellTheSink(t *testing.T) {
	log := &flow.Log{ClusterID: "c", Name: "topics a", Partitions: make([]flow.PartitionInfo, 1)}
	for text, want := range map[string]flow.Setup{
		good: {
			Flow: "telemetry", ClusterID: "c", Source: "topics a", Lanes: 1,
			Fields: []flow.Field{{Name: "device_id", Type: "text"}, {Name: "seq", Type: "int8", Required: true}},
		},
		routed: {
			Flow: "shop", ClusterID: "c", Source: "topics a", Lanes: 1,
			Routes: [][]flow.Field{{{Name: "id", Type: "int8"}}, {{Name: "id", Type: "int8"}, {Name: "name", Type: "text"}}},
		},
	} {
		f, err := Load("flow.yaml", []byte(text), testOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := f.Build(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Setup(cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(flow.Setup{}, "Member")); diff != "" {
			t.Error(diff)
		}
	}
}
