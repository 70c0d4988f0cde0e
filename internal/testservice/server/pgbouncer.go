package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// PgBouncer pools in transaction mode in front of a Postgres, for any of its
// databases, as its superuser. Other settings are PgBouncer's defaults, because
// those are what people run.
type PgBouncer struct {
	port int
	proc *process
}

// NewPgBouncer starts one in dir.
func NewPgBouncer(ctx context.Context, dir string, pg *Postgres) (*PgBouncer, error) {
	bin, err := findPgBouncer()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	users := filepath.Join(dir, "users.txt")
	if err := os.WriteFile(users, []byte("\"postgres\" \"\"\n"), 0o644); err != nil {
		return nil, err
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	b := &PgBouncer{}
	for attempt := 1; ; attempt++ {
		if b.port, err = FreePort(ctx); err != nil {
			return nil, err
		}
		conf := fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
			"unix_socket_dir =\nauth_type = trust\nauth_file = %s\npool_mode = transaction\nmax_client_conn = 500\n", pg.port, b.port, users)
		if err := os.WriteFile(ini, []byte(conf), 0o644); err != nil {
			return nil, err
		}
		b.proc, err = startProcess("PgBouncer", dir, cred, nil, bin, ini)
		if err != nil {
			return nil, err
		}
		err = b.proc.ready(ctx, 10*time.Second, func() error {
			c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp4", b.Addr())
			if err != nil {
				return err
			}
			return c.Close()
		})
		if err == nil {
			return b, nil
		}
		b.Stop()
		if attempt == startAttempts {
			return nil, err
		}
	}
}

func findPgBouncer() (string, error) {
	if p, err := exec.LookPath("pgbouncer"); err == nil {
		return p, nil
	}
	const debian = "/usr/sbin/pgbouncer" // not on every user's PATH
	if _, err := os.Stat(debian); err != nil {
		return "", fmt.Errorf("the program pgbouncer is missing: %w", err)
	}
	return debian, nil
}

// Addr is host:port.
func (b *PgBouncer) Addr() string { return addr(b.port) }

// Stop ends it.
func (b *PgBouncer) Stop() {
	if b.proc != nil {
		b.proc.stop(syscall.SIGTERM, 5*time.Second)
		b.proc = nil
	}
}
