package server

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// StandbyName is how a standby calls itself at its primary, for
// synchronous_standby_names.
const StandbyName = "standby"

// NewStandby copies a running server into dir and starts the copy as its
// streaming standby. It returns once the primary streams to it.
func (s *Postgres) NewStandby(ctx context.Context, dir string) (*Postgres, error) {
	standby, err := preparePostgres(dir)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s sslmode=disable", s.port, StandbyName)
	err = standby.program(ctx, "pg_basebackup", "-D", standby.data(), "-d", source, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	if err != nil {
		return nil, err
	}
	if err := standby.startSomewhere(ctx); err != nil {
		return nil, err
	}
	err = standby.proc.ready(ctx, 30*time.Second, func() error {
		var state string
		return s.query(ctx, &state, "SELECT state FROM pg_stat_replication WHERE application_name = '"+StandbyName+"' AND state = 'streaming'")
	})
	return standby, err
}

// Promote makes a standby a primary. It returns once it takes writes.
func (s *Postgres) Promote(ctx context.Context) error {
	var done bool
	if err := s.query(ctx, &done, "SELECT pg_promote(true, 30)"); err != nil {
		return err
	}
	if !done {
		return fmt.Errorf("the standby at %s is not promoted after 30 s", s.Addr())
	}
	return nil
}

func (s *Postgres) query(ctx context.Context, result any, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the query has its own error
	return conn.QueryRow(ctx, sql).Scan(result)
}
