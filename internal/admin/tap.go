package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/penstockdev/penstock/internal/expr"
	"github.com/penstockdev/penstock/internal/tap"
)

// tapBeat is how often something is sent when nothing happens, so that proxies keep the
// connection up and a client that is gone is noticed.
const tapBeat = 15 * time.Second

// maxTaps is how many taps there may be at a time: each costs the flow's lanes a little.
const maxTaps = 8

// tapOptions reads the query of a tap.
func tapOptions(r *http.Request) (o tap.Options, err error) {
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"stage", "where", "rate", "limit"}, name) {
			return o, fmt.Errorf("there is no parameter %q; there are stage, where, rate and limit", name)
		}
	}
	number := func(name string, most int) int {
		text := q.Get(name)
		if text == "" || err != nil {
			return 0
		}
		n, e := strconv.Atoi(text)
		if e != nil || n < 1 || n > most {
			err = fmt.Errorf("%s=%s: want a number of 1 to %d", name, text, most)
		}
		return n
	}
	o.Stages = q["stage"]
	o.Rate, o.Limit = number("rate", tap.MaxRate), number("limit", 1<<31-1)
	if err != nil {
		return o, err
	}
	if where := q.Get("where"); where != "" {
		if o.Where, err = expr.NewFilter(where); err != nil {
			return o, fmt.Errorf("where: %w", err)
		}
	}
	return o, o.Validate()
}

// tap streams records until the client, the flow or the process ends.
func (s *Server) tap(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("flow")
	what := "tapping flow " + name
	o, err := tapOptions(r)
	if err != nil {
		fail(w, what, &badRequest{err})
		return
	}
	if _, err := s.flows.Flow(name); err != nil {
		fail(w, what, err)
		return
	}
	if s.taps.Add(1) > maxTaps {
		s.taps.Add(-1)
		writeProblem(w, http.StatusTooManyRequests, "too many taps", fmt.Sprintf("there are %d taps on the flows of this process already: end one of them", maxTaps))
		return
	}
	defer s.taps.Add(-1)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)() //nolint:contextcheck // it ends with the first of two contexts

	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lines{w: w, control: http.NewResponseController(w)}
	if out.write(nil) != nil { // the header: the client knows that the tap is there
		return
	}
	var beat sync.WaitGroup
	beat.Go(func() {
		tick := time.NewTicker(tapBeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if out.write([]byte("\n")) != nil {
					cancel()
				}
			}
		}
	})
	err = s.flows.Tap(ctx, name, o, func(rec *tap.Record) error {
		line, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		return out.write(append(line, '\n'))
	})
	if err != nil && ctx.Err() == nil {
		line, _ := json.Marshal(map[string]*Problem{"problem": problemOf(what, err)}) // strings and a number
		_ = out.write(append(line, '\n'))                                             // the client may be gone
	}
	cancel()
	beat.Wait()
}

// lines writes to a client line by line, each within answerWithin.
type lines struct {
	mu      sync.Mutex // held while writing
	w       http.ResponseWriter
	control *http.ResponseController
}

func (l *lines) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.control.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := l.w.Write(line); err != nil {
		return err
	}
	return l.control.Flush()
}
