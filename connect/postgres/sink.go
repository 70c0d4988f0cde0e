package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// Sink writes batches into one table, or into one for each route. It is a
// flow.Checkpointer: rows, positions and dead letters are committed together.
type Sink struct {
	cfg     SinkConfig
	log     *slog.Logger
	setup   flow.Setup
	appName string

	// What Open has found; not changed afterwards while writers exist, but for the plans.
	facts serverFacts
	place *place
	plans []atomic.Pointer[plan] // by route

	// control is for everything but writing; whoever has taken the token may
	// use it. It is nil until it is needed, and after it broke.
	token   chan struct{}
	control *session

	// backends are those of the lanes' connections, for the checkpoint rows.
	backends []atomic.Pointer[string]
	removed  atomic.Int64

	// closing counts connections that pgconn is still getting rid of.
	closing sync.WaitGroup
}

var (
	_ flow.Sink            = (*Sink)(nil)
	_ flow.Checkpointer    = (*Sink)(nil)
	_ flow.DeadLetterStore = (*Sink)(nil)
	_ flow.LaneLimiter     = (*Sink)(nil)
	_ flow.Router          = (*Sink)(nil)
)

// NewSink checks the configuration. It connects to nothing.
func NewSink(cfg SinkConfig) (*Sink, error) {
	connect.Defaults(&cfg)
	cfg.Routes = slices.Clone(cfg.Routes)
	for i := range cfg.Routes {
		connect.Defaults(&cfg.Routes[i])
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, log: cfg.Logger, token: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.token <- struct{}{}
	return s, nil
}

// serverFacts are what the server says of itself and of the role.
type serverFacts struct {
	role, schema string
	// connections are those that the role may have in this database.
	connections int
	// limit says what allows no more, raise how to change that (%d: to what).
	limit, raise string
}

// penstockNames are the names of the tables that Penstock keeps.
type penstockNames struct{ flow, checkpoint, dead tableName }

// Routes is the number of routes; 0: there is one table for all records.
func (s *Sink) Routes() int { return len(s.cfg.Routes) }

// Open connects, checks the target tables, and creates what is missing.
func (s *Sink) Open(ctx context.Context, setup flow.Setup) error {
	if len(setup.Routes) != len(s.cfg.Routes) {
		return flow.Fatal(fmt.Errorf("the flow has %d routes and the postgres sink has tables for %d", len(setup.Routes), len(s.cfg.Routes)))
	}
	for i, t := range s.cfg.tables() {
		if len(fieldsOf(setup, i)) == 0 {
			return flow.Fatal(fmt.Errorf("the postgres sink writes columns, and the flow%s decodes none: configure decode", ofRoute(t.Route)))
		}
	}
	s.setup = setup
	// PostgreSQL cuts names off at 63 bytes, and this one is compared.
	s.appName = "penstock:" + setup.Flow
	s.appName = s.appName[:min(len(s.appName), 63)]
	s.backends = make([]atomic.Pointer[string], max(setup.Lanes, 1))
	return s.withControl(ctx, func(c *session) error {
		facts, err := readFacts(ctx, c.pg)
		if err != nil {
			return classify("look at the server", err)
		}
		s.facts = facts
		if err := s.checkConnections(facts); err != nil {
			return err
		}
		p, err := s.locate(ctx, c.pg, facts, setup)
		if err != nil {
			return err
		}
		if err := s.ensure(ctx, c.pg, p); err != nil {
			return err
		}
		s.place = p
		s.plans = make([]atomic.Pointer[plan], len(p.targets))
		var errs []error
		for i := range p.targets {
			t := &p.targets[i]
			if err := t.check(); err != nil {
				errs = append(errs, err)
				continue
			}
			if t.table.unlogged {
				s.log.Warn("the table is UNLOGGED: a crash of the server empties it, and the flow's positions stay", "table", t.name.String())
			}
			made, err := newPlan(t)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			s.plans[i].Store(made)
		}
		if err := errors.Join(errs...); err != nil {
			return flow.Fatal(err)
		}
		return nil
	})
}

// fieldsOf are the columns of a route.
func fieldsOf(setup flow.Setup, route int) []flow.Field {
	if route >= len(setup.Routes) {
		return setup.Fields
	}
	return setup.Routes[route]
}

// ofRoute is how a message names a route; nothing where there are none.
func ofRoute(name string) string {
	if name == "" {
		return ""
	}
	return " (route " + name + ")"
}

func readFacts(ctx context.Context, pg *pgconn.PgConn) (serverFacts, error) {
	rows, err := query(ctx, pg, `
		SELECT current_user, coalesce(current_schema(), ''), r.rolsuper, r.rolconnlimit, d.datconnlimit,
			current_setting('max_connections'), current_setting('superuser_reserved_connections'),
			coalesce(current_setting('reserved_connections', true), '0'), d.datname
		FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()`)
	if err != nil {
		return serverFacts{}, err
	}
	if len(rows) != 1 {
		return serverFacts{}, errors.New("the role or the database is not in the catalog")
	}
	r := rows[0]
	f := serverFacts{role: string(r[0]), schema: string(r[1]), connections: int(parseInt32(r[5])), limit: "max_connections of the server", raise: "raise it"}
	if isTrue(r[2]) {
		return f, nil // the limits of roles and databases are not for superusers
	}
	f.connections -= int(parseInt32(r[6]) + parseInt32(r[7]))
	if n := int(parseInt32(r[3])); n >= 0 && n < f.connections {
		f.connections, f.limit, f.raise = n, "rolconnlimit of role "+f.role, "ALTER ROLE "+quoteName(f.role)+" CONNECTION LIMIT %d;"
	}
	if n := int(parseInt32(r[4])); n >= 0 && n < f.connections {
		f.connections, f.limit, f.raise = n, "datconnlimit of database "+string(r[8]), "ALTER DATABASE "+quoteName(string(r[8]))+" CONNECTION LIMIT %d;"
	}
	return f, nil
}

// minConnections are one lane's and the one for the checkpoint.
const minConnections = 2

// allowed is how many connections this process may use.
func (s *Sink) allowed(f serverFacts) int {
	return int(s.cfg.MaxConnectionShare * float64(f.connections))
}

// checkConnections refuses a limit that would keep the flow from ever writing.
func (s *Sink) checkConnections(f serverFacts) error {
	if s.allowed(f) >= minConnections {
		return nil
	}
	raise := strings.Replace(f.raise, "%d", strconv.Itoa(int(math.Ceil(minConnections/s.cfg.MaxConnectionShare))), 1)
	return flow.Fatal(fmt.Errorf("a flow needs %d connections, one to write and one for the checkpoint, and max_connection_share %v of the %d that %s allows is less: %s or raise max_connection_share",
		minConnections, s.cfg.MaxConnectionShare, f.connections, f.limit, raise))
}

// StoresDeadLetters is always true: they go into the dead-letter table.
func (s *Sink) StoresDeadLetters() bool { return true }

// MaxLanes is how many lanes the server's connections are enough for, one of
// them being for the checkpoint.
func (s *Sink) MaxLanes() int {
	return max(1, s.allowed(s.facts)-1) // 1 only before Open, which refuses less
}

// Removed is how many backends of predecessors that held a checkpoint row were
// terminated.
func (s *Sink) Removed() int64 { return s.removed.Load() }

// Writer makes the writer of a lane. It connects at the first Write.
func (s *Sink) Writer(lane int) (flow.Writer, error) {
	if s.plans == nil {
		return nil, errors.New("postgres: Writer before Open")
	}
	if lane < 0 || lane >= len(s.backends) {
		return nil, fmt.Errorf("postgres: lane %d of %d", lane, len(s.backends))
	}
	return newWriter(s, lane), nil
}

// Close closes the control connection.
func (s *Sink) Close(ctx context.Context) error {
	select {
	case <-s.token:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.token <- struct{}{} }()
	if s.control != nil {
		s.dropControl(ctx)
	}
	s.closing.Wait()
	return nil
}

// withControl runs f with the control connection, connecting first where
// needed. Calls wait for each other.
func (s *Sink) withControl(ctx context.Context, f func(*session) error) error {
	select {
	case <-s.token:
	case <-ctx.Done():
		return classify("wait for the control connection", ctx.Err())
	}
	defer func() { s.token <- struct{}{} }()
	if s.control != nil && !s.alive(ctx, s.control.pg) {
		s.dropControl(ctx)
	}
	if s.control == nil {
		c, err := s.dial(ctx)
		if err != nil {
			return err
		}
		s.control = c
	}
	err := f(s.control)
	if s.control.pg.IsClosed() || s.control.pg.TxStatus() != 'I' || sqlState(err) == codeReadOnly {
		s.dropControl(ctx) // what it was in the middle of is rolled back
	}
	return err
}

// alive finds out whether a connection that was not used for a while still is one.
func (s *Sink) alive(ctx context.Context, pg *pgconn.PgConn) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	return !pg.IsClosed() && pg.Ping(ctx) == nil
}

func (s *Sink) dropControl(ctx context.Context) {
	s.hangUp(ctx, s.control.pg)
	s.control = nil
}
