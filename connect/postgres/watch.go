package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// watch asks, shortly before the time of an attempt is over, what the attempt waits
// for: afterwards the server has forgotten. It has a goroutine only then.
type watch struct {
	cancel context.CancelFunc
	timer  *time.Timer
	done   chan struct{} // closed when found is set
	found  string
}

// watch starts one. It must be ended.
func (w *writer) watch(ctx context.Context) *watch {
	left := w.sink.cfg.StatementTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	lead := min(left/4, 3*time.Second)
	ctx, cancel := context.WithCancel(ctx)
	h := &watch{cancel: cancel, done: make(chan struct{})}
	h.timer = time.AfterFunc(left-lead, func() {
		defer close(h.done)
		ctx, cancel := context.WithTimeout(ctx, lead*2/3)
		defer cancel()
		h.found = w.sink.explainWait(ctx, int(w.pid.Load()), left)
	})
	return h
}

// end returns what was found out; "": nothing, or the attempt was faster.
func (h *watch) end() string {
	h.cancel()
	if h.timer.Stop() {
		return ""
	}
	<-h.done
	return h.found
}

// explain adds what was found out to an error of an attempt whose time was over.
func (h *watch) explain(err error) error {
	found := h.end()
	if found == "" || !errors.Is(err, context.DeadlineExceeded) && sqlState(err) != codeQueryCanceled {
		return err
	}
	return fmt.Errorf("%w: %s", err, found)
}

// explainWait says, over the control connection, who keeps a backend waiting, or
// that the server answers nobody; "": neither. pid 0 is a backend that is not known.
func (s *Sink) explainWait(ctx context.Context, pid int, after time.Duration) string {
	var rows [][][]byte
	err := s.withControl(ctx, func(c *session) (err error) {
		rows, err = query(ctx, c.pg, `
			SELECT l.mode, coalesce(quote_ident(n.nspname) || '.' || quote_ident(r.relname), ''),
				h.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
				coalesce(date_trunc('second', now() - a.xact_start)::text, ''),
				coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 120), '')
			FROM pg_locks l
			LEFT JOIN pg_class r ON r.oid = l.relation
			LEFT JOIN pg_namespace n ON n.oid = r.relnamespace
			CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) h(pid)
			LEFT JOIN pg_stat_activity a ON a.pid = h.pid
			WHERE l.pid = $1::int4 AND NOT l.granted
			ORDER BY a.xact_start LIMIT 3`, strconv.Itoa(pid))
		return classify("ask who holds the lock", err)
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the server has not answered for %s, and does not on another connection: check that it is not stopped, frozen or overloaded, "+
			"and the network on the way. The flow goes on by itself", after.Round(100*time.Millisecond))
	case err != nil || len(rows) == 0:
		return ""
	}
	var who, end []string
	for _, r := range rows {
		if string(r[2]) == "0" {
			who = append(who, "a prepared transaction (see pg_prepared_xacts)")
			continue
		}
		who = append(who, describeHolder(r))
		end = append(end, fmt.Sprintf("pg_terminate_backend(%s)", r[2]))
	}
	what := "a row that another transaction has written"
	if len(rows[0][1]) > 0 {
		what = fmt.Sprintf("a lock (%s) on table %s", rows[0][0], rows[0][1])
	}
	text := fmt.Sprintf("it waited for %s, which is held by %s. The flow goes on by itself when that ends", what, strings.Join(who, ", and by "))
	if len(end) > 0 {
		text += "; to end it, run: SELECT " + strings.Join(end, ", ") + ";"
	}
	return text
}

// describeHolder describes a row of explainWait's query. What another role runs is hidden
// from one without pg_read_all_stats.
func describeHolder(r [][]byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "process %s of role %s", r[2], r[3])
	if len(r[4]) > 0 {
		fmt.Fprintf(&b, " (%s)", r[4])
	}
	if len(r[6]) > 0 {
		fmt.Fprintf(&b, ", %s, in a transaction for %s", r[5], r[6])
	}
	if q := string(r[7]); q != "" && !strings.HasPrefix(q, "<") {
		fmt.Fprintf(&b, ", running or last run: %s", q)
	}
	return b.String()
}
