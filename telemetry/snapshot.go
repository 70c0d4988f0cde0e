package telemetry

import (
	"maps"
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Snapshot is what a flow's metrics say at one moment, for a program that asks without
// Prometheus. All counts are since the process started.
type Snapshot struct {
	Counts
	// Dead are the dead letters by class of error, Retries the failed attempts to
	// write; without the classes that did not occur.
	Dead       map[string]int64 `json:"dead_letters"`
	Retries    map[string]int64 `json:"retries"`
	Rebalances int64            `json:"rebalances"`
	Restarts   int64            `json:"restarts"`
	// Times in seconds: of a read, of the transforms of a batch, of its write with its retries, and
	// from a record's timestamp until it was durable.
	Read     Histogram `json:"read"`
	Decode   Histogram `json:"decode"`
	Commit   Histogram `json:"commit"`
	EndToEnd Histogram `json:"end_to_end"`
}

// Histogram is a distribution. The difference of two is that of the time between them.
type Histogram struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
	// Buckets are cumulative, in order; what is above the last bound is in Count only.
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts the observations of at most UpperBound.
type Bucket struct {
	UpperBound float64 `json:"le"`
	Count      uint64  `json:"count"`
}

// Since returns what was observed after an earlier snapshot of the same histogram. Where that
// has more (the process was started anew) it returns all of h.
func (h Histogram) Since(earlier Histogram) Histogram {
	if earlier.Count > h.Count || len(earlier.Buckets) != len(h.Buckets) {
		return h
	}
	d := Histogram{Count: h.Count - earlier.Count, Sum: h.Sum - earlier.Sum, Buckets: make([]Bucket, len(h.Buckets))}
	for i, b := range h.Buckets {
		d.Buckets[i] = Bucket{b.UpperBound, b.Count - min(b.Count, earlier.Buckets[i].Count)}
	}
	return d
}

// Quantile estimates the value that a share q (0 to 1) of the observations does not exceed,
// as Prometheus' histogram_quantile does: linear within a bucket, and the last bound for
// what is above it. NaN without observations.
func (h Histogram) Quantile(q float64) float64 {
	if h.Count == 0 || len(h.Buckets) == 0 {
		return math.NaN()
	}
	rank := q * float64(h.Count)
	lower, below := 0.0, uint64(0)
	for _, b := range h.Buckets {
		if float64(b.Count) >= rank && b.Count > below {
			return lower + (b.UpperBound-lower)*max(0, rank-float64(below))/float64(b.Count-below)
		}
		lower, below = b.UpperBound, b.Count
	}
	return lower
}

// Snapshot returns what the metrics say now.
func (m *FlowMetrics) Snapshot() Snapshot {
	_, counts := m.current()
	dead, retries := m.byClass()
	never := func(_ string, n int64) bool { return n == 0 }
	maps.DeleteFunc(dead, never)
	maps.DeleteFunc(retries, never)
	return Snapshot{
		Counts:     counts,
		Dead:       dead,
		Retries:    retries,
		Rebalances: m.rebalances.Load(),
		Restarts:   m.restarts.Load(),
		Read:       histogramOf(m.read),
		Decode:     histogramOf(m.decode),
		Commit:     histogramOf(m.write),
		EndToEnd:   histogramOf(m.endToEnd),
	}
}

func histogramOf(o prometheus.Observer) Histogram {
	var value dto.Metric
	if m, ok := o.(prometheus.Metric); !ok || m.Write(&value) != nil {
		return Histogram{} // neither happens: a histogram's observer is one, and can be written
	}
	h := value.GetHistogram()
	out := Histogram{Count: h.GetSampleCount(), Sum: h.GetSampleSum(), Buckets: make([]Bucket, len(h.GetBucket()))}
	for i, b := range h.GetBucket() {
		out.Buckets[i] = Bucket{b.GetUpperBound(), b.GetCumulativeCount()}
	}
	return out
}
