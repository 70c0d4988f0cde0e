package admin

import (
	"math"
	"time"

	"github.com/penstockdev/penstock/telemetry"
)

// Between returns what happened from one look at a flow to a later one. If the process was
// started anew in between, the counters of the later one count from 0.
func Between(old, now *Flow, took time.Duration) Rates {
	if took <= 0 {
		return Rates{}
	}
	s := took.Seconds()
	if now.Records < old.Records || now.Batches < old.Batches {
		old = &Flow{LagRecords: old.LagRecords}
	}
	per := func(a, b int64) float64 { return float64(b-a) / s }
	commit := now.Commit.Since(old.Commit)
	return Rates{
		Seconds: s,
		Records: per(old.Records, now.Records),
		Rows:    per(old.Rows, now.Rows),
		Bytes:   per(old.Bytes, now.Bytes),
		Dead:    per(old.DeadLetters, now.DeadLetters),
		Lag:     per(old.LagRecords, now.LagRecords),

		CommitP50: quantile(commit, 0.50),
		CommitP99: quantile(commit, 0.99),
	}
}

// quantile is nil without observations, and rounded to what a bucket can tell.
func quantile(h telemetry.Histogram, q float64) *float64 {
	v := h.Quantile(q)
	if math.IsNaN(v) {
		return nil
	}
	v = math.Round(v*1e6) / 1e6
	return &v
}
