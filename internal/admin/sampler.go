package admin

import (
	"context"
	"sync"
	"time"
)

// The window of Flow.Recent: long enough for flows that write rarely, short enough to
// follow a person's doing.
const (
	sampleEvery  = 2 * time.Second
	sampleWindow = 10 * time.Second
)

// sampler remembers how flows looked in the last seconds, so that one request shows rates.
type sampler struct {
	look func() []Flow

	mu      sync.Mutex // guards what follows
	samples []sample   // oldest first
}

type sample struct {
	at    time.Time
	flows map[string]*Flow
}

func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		flows := s.look()
		now := sample{time.Now(), make(map[string]*Flow, len(flows))}
		for i := range flows {
			now.flows[flows[i].Name] = &flows[i]
		}
		s.mu.Lock()
		old := 0
		for old < len(s.samples) && now.at.Sub(s.samples[old].at) > sampleWindow {
			old++
		}
		s.samples = append(s.samples[old:], now)
		s.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// recent returns the rates of a flow since the oldest sample that has it.
func (s *sampler) recent(f *Flow, now time.Time) Rates {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.samples {
		if was := old.flows[f.Name]; was != nil {
			return Between(was, f, now.Sub(old.at))
		}
	}
	return Rates{}
}
