// Package check checks what is deployed, as far as it can be without a cluster. It
// is a module of its own: Helm stays out of the go.mod of Penstock's users.
package check

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

const chartDir = "../helm/penstock"

var update = flag.Bool("update", false, "write ../kubernetes/penstock.yaml")

// render is `helm template penstock ../helm/penstock --values …`.
func render(values map[string]any) (string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return "", err
	}
	options := chartutil.ReleaseOptions{Name: "penstock", Namespace: "default", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if text := strings.TrimSpace(files[name]); strings.HasSuffix(name, ".yaml") && text != "" {
			out.WriteString("---\n" + text + "\n")
		}
	}
	return out.String(), nil
}

func readValues(t *testing.T, text string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// program is the path of one that `make test` has installed.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set; `make test` installs what is missing and sets it", variable)
	}
	return path
}

// objects are those of Kubernetes' own API, which kubernetes-validate knows, and the others.
func objects(t *testing.T, manifests string) (own, others []map[string]any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(manifests))
	for {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return own, others
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, manifests)
		}
		api, _ := o["apiVersion"].(string)
		if group, _, _ := strings.Cut(api, "/"); strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io") {
			others = append(others, o)
		} else {
			own = append(own, o)
		}
	}
}

func validate(t *testing.T, manifests string) {
	t.Helper()
	own, _ := objects(t, manifests)
	var args []string
	for i, o := range own {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d.yaml", o["kind"], i))
		if err := os.WriteFile(path, marshal(t, o), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	for _, version := range []string{"1.27", "1.34"} { // the oldest that the chart names, and a recent one
		cmd := exec.CommandContext(t.Context(), program(t, "PENSTOCK_TEST_KUBERNETES_VALIDATE"), append([]string{"--strict", "-k", version}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("Kubernetes %s: %v\n%s\n%s", version, err, out, manifests)
		}
	}
}

var everything = `
flows: {a.yaml: "flow: a\n", b.yaml: "flow: b\n"}
image: {repository: example/penstock, digest: "sha256:` + strings.Repeat("0", 64) + `"}
imagePullSecrets: [{name: pull}]
env: [{name: OTEL_TRACES_EXPORTER, value: otlp}]
envFrom: [{secretRef: {name: s}}]
admin: {port: 9999, tokenSecret: {name: token}}
autoscaling:
  enabled: true
  kafka: {bootstrapServers: "kafka:9092", authenticationRef: sasl, triggers: [{group: a, topic: t, lagThreshold: 10}, {group: b, topic: t, lagThreshold: 10}]}
podMonitor: {enabled: true, labels: {release: prometheus}, podTargetLabels: [track]}
serviceAccount: {name: x, annotations: {a: b}}
podAnnotations: {a: b}
podLabels: {c: d}
nodeSelector: {disk: fast}
tolerations: [{key: x, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: x, operator: Exists}]}]}}}
priorityClassName: high
extraVolumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
extraVolumeMounts: [{name: data, mountPath: /data}]
`

func TestChartIsValid(t *testing.T) {
	for name, values := range map[string]string{
		"one flow":           `flows: {a.yaml: "flow: a\n"}`,
		"a ConfigMap of own": `{existingConfigMap: flows, podDisruptionBudget: {enabled: false}, serviceAccount: {create: false}}`,
		"everything":         everything,
	} {
		t.Run(name, func(t *testing.T) {
			v := readValues(t, values)
			for _, m := range lint.All(chartDir, v, "default", true).Messages {
				if m.Severity > support.InfoSev {
					t.Errorf("helm lint: %s", m)
				}
			}
			manifests, err := render(v)
			if err != nil {
				t.Fatal(err)
			}
			validate(t, manifests)
		})
	}
}

func TestChartRefusesWrongValues(t *testing.T) {
	for values, say := range map[string]string{
		`{}`: "there is nothing to run",
		`{flows: {a.yaml: "flow: a"}, existingConfigMap: x}`:         "both set",
		`{flows: {a.txt: "flow: a"}}`:                                "a.txt",
		`{flows: {a.yaml: "flow: a"}, replica: 3}`:                   "replica",
		`{flows: {a.yaml: "flow: a"}, autoscaling: {enabled: true}}`: "autoscaling.kafka.triggers",
		`{flows: {a.yaml: "flow: a"}, autoscaling: {enabled: true, minReplicas: 9, kafka: {bootstrapServers: k, triggers: [{group: a, topic: t, lagThreshold: 1}]}}}`: "minReplicas is more",
		`{flows: {a.yaml: "flow: a"}, image: {repository: x, digest: sha256:abc}}`:                                                                                    "digest",
	} {
		if _, err := render(readValues(t, values)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: got %v, want an error with %q", values, err, say)
		}
	}
}

// What a person wrote is what the process reads, however it is indented and ended.
func TestFlowFilesArriveAsTheyAre(t *testing.T) {
	for _, text := range []string{"  # indented\nflow: a\n", "flow: a", "flow: a\r\nsource: {}\r\n", "flow: a # {{ .Values }} ${X}\n", "\nflow: a\n"} {
		manifests, err := render(map[string]any{"flows": map[string]any{"a.yaml": text}})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		own, _ := objects(t, manifests)
		if got := at(find(t, own, "ConfigMap"), "data", "a.yaml"); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// at follows a path of keys and indexes into what YAML was decoded to; nil where it ends early.
func at(o any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := o.(map[string]any)
			o = m[p]
		case int:
			l, _ := o.([]any)
			if p >= len(l) {
				return nil
			}
			o = l[p]
		}
	}
	return o
}

// find returns the object of that kind.
func find(t *testing.T, list []map[string]any, kind string) map[string]any {
	t.Helper()
	i := slices.IndexFunc(list, func(o map[string]any) bool { return o["kind"] == kind })
	if i < 0 {
		t.Fatalf("there is no %s", kind)
	}
	return list[i]
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A pod runs with as few rights as it can, and ends after its flows have.
func TestPodIsConfined(t *testing.T) {
	manifests, err := render(readValues(t, everything))
	if err != nil {
		t.Fatal(err)
	}
	own, others := objects(t, manifests)
	pod := at(find(t, own, "Deployment"), "spec", "template", "spec")
	container := at(pod, "containers", 0)
	for _, c := range []struct{ got, want any }{
		{at(pod, "securityContext", "runAsNonRoot"), true},
		{at(pod, "automountServiceAccountToken"), false},
		{at(pod, "enableServiceLinks"), false},
		{at(container, "securityContext", "readOnlyRootFilesystem"), true},
		{at(container, "securityContext", "allowPrivilegeEscalation"), false},
		{at(container, "securityContext", "capabilities", "drop", 0), "ALL"},
		{at(container, "livenessProbe", "httpGet", "path"), "/healthz"},
		{at(container, "readinessProbe", "httpGet", "path"), "/readyz"},
		{at(find(t, own, "PodDisruptionBudget"), "spec", "maxUnavailable"), 1},
		{at(find(t, others, "ScaledObject"), "spec", "triggers", 1, "metadata", "consumerGroup"), "b"},
		{at(find(t, others, "PodMonitor"), "spec", "podMetricsEndpoints", 0, "authorization", "credentials", "name"), "token"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	if at(find(t, own, "Deployment"), "spec", "replicas") != nil {
		t.Error("the Deployment sets replicas, which are the scaler's")
	}
	const grace = 20 // default of shutdown.grace
	if s, _ := at(pod, "terminationGracePeriodSeconds").(int); s <= grace {
		t.Errorf("the pod is killed after %d s, and its flows may take %d", s, grace)
	}
}

// Who has no Helm applies a file, which is the chart's.
func TestPlainManifestsAreTheChart(t *testing.T) {
	const path = "../kubernetes/penstock.yaml"
	got, err := render(readValues(t, readFile(t, "../kubernetes/values.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	got = "# Rendered from deploy/helm/penstock with values.yaml beside this file: `go test . -update` in deploy/check.\n" +
		"# It needs the Secrets penstock-database (DATABASE_URL) and penstock-admin (token), and KEDA for the ScaledObject.\n" + got
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, path); got != want {
		t.Error("the chart has changed: go test . -update")
	}
	validate(t, got)
}

// The flows of the examples are what penstock lint takes, with the variables that the process gets there.
func TestFlowsOfExamplesPassLint(t *testing.T) {
	values := readValues(t, readFile(t, "../kubernetes/values.yaml"))
	dir := t.TempDir()
	flows, _ := values["flows"].(map[string]any)
	for name, text := range flows {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Append(nil, text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own, _ := objects(t, readFile(t, "../kubernetes/penstock.yaml"))
	env := map[string][]string{
		dir:                {"DATABASE_URL=postgres://penstock@postgres/penstock"}, // of the Secret
		"../compose/flows": nil,
	}
	list, _ := at(find(t, own, "Deployment"), "spec", "template", "spec", "containers", 0, "env").([]any)
	for _, v := range list {
		env[dir] = append(env[dir], fmt.Sprintf("%v=%v", at(v, "name"), at(v, "value")))
	}
	for name, value := range composeFile(t).Services["penstock"].Environment {
		env["../compose/flows"] = append(env["../compose/flows"], name+"="+*value)
	}
	for folder, variables := range env {
		abs, err := filepath.Abs(folder)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "run", "./cmd/penstock", "lint", abs)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), variables...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s with %v: %v\n%s", folder, variables, err, out)
		}
	}
}

// The Rollout's names are those of the chart's Deployment, and its metrics are ours; its kind is
// not one that can be checked here.
func TestRolloutFollowsTheDeployment(t *testing.T) {
	_, others := objects(t, readFile(t, "../argo-rollouts/rollout.yaml"))
	if len(others) != 2 {
		t.Fatalf("%d objects, want a Rollout and an AnalysisTemplate", len(others))
	}
	own, _ := objects(t, readFile(t, "../kubernetes/penstock.yaml"))
	deployment := find(t, own, "Deployment")
	ref := at(others[0], "spec", "workloadRef")
	if name := at(deployment, "metadata", "name"); at(ref, "name") != name || at(ref, "kind") != "Deployment" {
		t.Errorf("the Rollout takes %v, and the Deployment is %v", ref, name)
	}
	want, got := marshal(t, at(deployment, "spec", "selector")), marshal(t, at(others[0], "spec", "selector"))
	if !bytes.Equal(got, want) {
		t.Errorf("the Rollout selects\n%s, the Deployment\n%s", got, want)
	}

	// Nothing but the Rollout scales the Deployment, which would come back beside it; and the metrics
	// have the label by which the analysis tells the versions apart.
	values := chartutil.CoalesceTables(readValues(t, readFile(t, "../argo-rollouts/values.yaml")), readValues(t, readFile(t, "../kubernetes/values.yaml")))
	manifests, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	_, custom := objects(t, manifests)
	target := at(find(t, custom, "ScaledObject"), "spec", "scaleTargetRef")
	for _, field := range []string{"apiVersion", "kind"} {
		if at(target, field) != others[0][field] {
			t.Errorf("KEDA scales %v", target)
		}
	}
	if at(target, "name") != at(others[0], "metadata", "name") {
		t.Errorf("KEDA scales %v", target)
	}
	label := fmt.Sprint(at(find(t, custom, "PodMonitor"), "spec", "podTargetLabels", 0))
	canary := at(others[0], "spec", "strategy", "canary", "canaryMetadata", "labels", label)
	for i := range 3 {
		query := fmt.Sprint(at(others[1], "spec", "metrics", i, "provider", "prometheus", "query"))
		if !strings.Contains(query, fmt.Sprintf("{%s=%q}", label, canary)) {
			t.Errorf("the metrics have the label %s, and the analysis asks for %s", label, query)
		}
	}
}
