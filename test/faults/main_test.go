package faults

import (
	"bufio"
	"context"
	"flag"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/test/rig"
)

var outage = flag.Duration("outage", 10*time.Second, "how long the database stays away in TestBackpressure, each of two times")

func TestMain(m *testing.M) { rig.Main(m) }

// get reads a page of a process's admin server; empty where it does not answer.
func get(ctx context.Context, admin, page string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+page, nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}

// metrics are the values of each metric, whatever their labels.
type metrics map[string][]float64

// scrape reads a process's metrics; there are none where it does not answer.
func scrape(ctx context.Context, admin string) metrics {
	m := metrics{}
	lines := bufio.NewScanner(strings.NewReader(get(ctx, admin, "/metrics")))
	for lines.Scan() {
		line := lines.Text()
		name := line[:max(0, strings.IndexAny(line, "{ "))]
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err == nil && name != "" && name != "#" {
			m[name] = append(m[name], v)
		}
	}
	return m
}

// sum is that of all values under the name, 0 where there are none.
func (m metrics) sum(name string) (sum float64) {
	for _, v := range m[name] {
		sum += v
	}
	return sum
}

// advised checks that a process says all these words, in what it logged after
// its first n bytes or at /readyz.
func advised(t *testing.T, p *rig.Process, admin string, n int, words ...string) {
	t.Helper()
	missing := ""
	ok := rig.Poll(t.Context(), 40*time.Second, func() bool {
		said := p.Log.String()[n:] + get(t.Context(), admin, "/readyz")
		missing = ""
		for _, w := range words {
			if !strings.Contains(said, w) {
				missing = w
			}
		}
		return missing == "" || !p.Alive() && !strings.Contains(p.Log.String()[n:], missing)
	})
	if !ok || missing != "" {
		t.Errorf("the flow does not say %q:\n%s\n/readyz: %s", missing, p.Log.Tail(), get(t.Context(), admin, "/readyz"))
	}
}
