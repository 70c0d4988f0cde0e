package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var _ connect.Checker = (*Sink)(nil)

const (
	// minServer is the first version that has what the statements here use.
	minServer, minServerName = 120000, "12"
	testedServers            = "tested with 15"
	// maxSkew is how far the server's clock may be from ours.
	maxSkew = time.Second
	// manyIndexes is from how many indexes on their cost is worth a word.
	manyIndexes = 6
	// idleTransaction is for how long a session may hold locks and do nothing.
	idleTransaction = time.Minute
)

// checker collects what is found on one connection.
type checker struct {
	sink  *Sink
	setup flow.Setup
	pg    *pgconn.PgConn
	facts serverFacts
	out   []connect.Check
	now   func() time.Time
	idle  time.Duration // idleTransaction
}

// Check implements connect.Checker.
func (s *Sink) Check(ctx context.Context, setup flow.Setup) []connect.Check {
	c := &checker{sink: s, setup: setup, now: time.Now, idle: idleTransaction}
	c.run(ctx)
	return c.out
}

func (c *checker) run(ctx context.Context) {
	s := c.sink
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout+s.cfg.StatementTimeout)
	defer cancel()
	conn, err := s.dialAs(ctx, "penstock:check")
	if err != nil {
		c.fail("PostgreSQL"+s.address(), "url", err)
		return
	}
	defer s.hangUp(ctx, conn.pg)
	c.pg = conn.pg
	for _, look := range []func(context.Context) error{c.server, c.clock, c.connections, c.tables} {
		if err := look(ctx); err != nil {
			c.fail("PostgreSQL"+s.address(), "", err)
			return
		}
	}
}

// address names the server without anything secret.
func (s *Sink) address() string {
	cfg, err := parseURL(s.cfg.URL)
	if err != nil {
		return ""
	}
	if strings.HasPrefix(cfg.Host, "/") {
		return " at " + cfg.Host
	}
	return " at " + net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}

func (c *checker) add(status connect.CheckStatus, what, field, next, found string, args ...any) {
	c.out = append(c.out, connect.Check{What: what, Status: status, Field: field, Next: next, Found: fmt.Sprintf(found, args...)})
}

func (c *checker) ok(what, found string, args ...any) {
	c.add(connect.CheckOK, what, "", "", found, args...)
}

func (c *checker) warn(what, field, next, found string, args ...any) {
	c.add(connect.CheckWarning, what, field, next, found, args...)
}

// advice begins what an error says is to be done.
var advice = []string{
	"; check ", ". Check ", "; set ", ": set ", "; as the owner, run:", ". As a role that may, run:", ". Give it another name", ". Restore the table", ". To go on, ",
	": use the version", ". Rename it", ": decode ", "; give ", ". This is a standby", ": write the table",
}

// fail adds a failed check for an error, whose advice becomes the next step.
func (c *checker) fail(what, field string, err error) {
	found, next := err.Error(), ""
	for _, a := range advice {
		if at := strings.Index(found, a); at > 0 {
			found, next = found[:at], strings.TrimLeft(found[at:], ";:. ")
			break
		}
	}
	c.add(connect.CheckFailed, what, field, next, "%s", found)
}

// server looks at what answers, and how the connection to it is.
func (c *checker) server(ctx context.Context) error {
	rows, err := query(ctx, c.pg, `SELECT current_setting('server_version'), current_setting('server_version_num'), pg_backend_pid(), pg_is_in_recovery(),
		current_setting('synchronous_commit'), current_setting('fsync'), current_database()`)
	if err != nil {
		return classify("look at the server", err)
	}
	r := rows[0]
	what, version := "PostgreSQL"+c.sink.address(), string(r[0])
	if parseInt32(r[1]) < minServer {
		c.add(connect.CheckFailed, what, "url", "use PostgreSQL "+minServerName+" or later", "version %s; supported are %s and later", version, minServerName)
	} else {
		c.ok(what, "version %s (supported are %s and later; %s), database %s", version, minServerName, testedServers, r[6])
	}
	c.encryption()
	if pid := parseInt32(r[2]); uint32(pid) != c.pg.PID() { //nolint:gosec // process ids are positive
		// The key by which this connection can be cancelled is the pooler's own.
		if _, err := exec(ctx, c.pg, "BEGIN READ ONLY;ROLLBACK"); err != nil {
			_ = rollback(ctx, c.pg)
			c.add(connect.CheckFailed, "connection pooler", "url", "set pool_mode to transaction or session for this database, or connect to the server itself",
				"a pooler between here and the server allows no transactions: %s", err)
		} else {
			c.ok("connection pooler", "a pooler (PgBouncer or the like) is between here and the server; transaction and session pooling both work. "+
				"Its pool needs %s", c.poolSize())
		}
	}
	if isTrue(r[3]) {
		c.add(connect.CheckFailed, "replication", "url", "url must lead to the primary: give several hosts and target_session_attrs=read-write",
			"this server is a standby (in recovery) and takes no writes")
	}
	if v := string(r[4]); v == "off" {
		c.warn("synchronous_commit", "", "to keep every batch that was committed: ALTER ROLE … SET synchronous_commit = on;",
			"is off: a crash of the server may undo the batches of the last moments, rows, positions and dead letters together; the flow reads them again, as long as the topic holds them")
	}
	if v := string(r[5]); v == "off" {
		c.warn("fsync", "", "set fsync = on in postgresql.conf", "is off: a crash of the machine can destroy the database, positions included")
	}
	return nil
}

func (c *checker) poolSize() string {
	if c.setup.Lanes > 0 {
		return fmt.Sprintf("%d server connections, one for each lane and one more", c.setup.Lanes+1)
	}
	return "a server connection for each lane and one more"
}

// encryption looks whether somebody on the way can read or change what is sent.
func (c *checker) encryption() {
	cfg, err := parseURL(c.sink.cfg.URL)
	if err != nil {
		return
	}
	version := ""
	if conn, ok := c.pg.Conn().(*tls.Conn); ok {
		version = tls.VersionName(conn.ConnectionState().Version)
	}
	fault, found := judgeEncryption(cfg.TLSConfig, version, c.pg.Conn().RemoteAddr())
	if fault {
		c.warn("encryption", "url", "set sslmode=verify-full in url, and sslrootcert if the server's CA is not a public one", "%s", found)
	} else {
		c.ok("encryption", "%s", found)
	}
}

// judgeEncryption judges a connection; version is that of TLS, empty without it.
func judgeEncryption(cfg *tls.Config, version string, remote net.Addr) (fault bool, found string) {
	tcp, isTCP := remote.(*net.TCPAddr)
	here := !isTCP || tcp.IP.IsLoopback()
	verified := version != "" && cfg != nil && (!cfg.InsecureSkipVerify || cfg.VerifyPeerCertificate != nil || cfg.VerifyConnection != nil)
	switch {
	case verified:
		return false, version + ", and the server's certificate is verified"
	case here && version == "":
		return false, "none, and the connection does not leave this machine"
	case here:
		return false, version + ", and the connection does not leave this machine"
	case version == "":
		return true, fmt.Sprintf("none: whoever is on the way to %s can read and change what is sent", remote)
	}
	return true, version + ", but nobody checks who the server is"
}

// clock compares the clocks. Of several round trips the shortest tells most.
func (c *checker) clock(ctx context.Context) error {
	best, skew := time.Duration(-1), time.Duration(0)
	for range 3 {
		began := c.now()
		rows, err := query(ctx, c.pg, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
		if err != nil {
			return classify("read the server's clock", err)
		}
		if took := c.now().Sub(began); best < 0 || took < best {
			best, skew = took, time.UnixMicro(parseInt64(rows[0][0])).Sub(began.Add(took/2))
		}
	}
	what, found := "clock", "the server's clock agrees with ours"
	switch {
	case skew > max(best, time.Millisecond):
		found = fmt.Sprintf("the server's clock is %s ahead of ours", round(skew))
	case -skew > max(best, time.Millisecond):
		found = fmt.Sprintf("the server's clock is %s behind ours", round(-skew))
	}
	found += fmt.Sprintf("; a round trip takes %s", round(best))
	if skew.Abs() > maxSkew {
		c.warn(what, "", "synchronise both clocks (chrony, systemd-timesyncd): times in the tables, and latencies, are off by it", "%s", found)
	} else {
		c.ok(what, "%s", found)
	}
	return nil
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(10 * time.Millisecond)
}

// connections looks at how many the role may have, and whether they are free.
func (c *checker) connections(ctx context.Context) error {
	var err error
	if c.facts, err = readFacts(ctx, c.pg); err != nil {
		return classify("look at the server", err)
	}
	rows, err := query(ctx, c.pg, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
	if err != nil {
		return classify("count connections", err)
	}
	const what, field = "connections", "max_connection_share"
	if err := c.sink.checkConnections(c.facts); err != nil {
		c.fail(what, field, err)
		return nil
	}
	used := int(parseInt32(rows[0][0])) - 1 // not this one
	allowed, lanes := c.sink.allowed(c.facts), max(c.setup.Lanes, 1)
	found := fmt.Sprintf("role %s: %s allows %d, of which this process uses %d at most (max_connection_share %v); %d are in use",
		c.facts.role, c.facts.limit, c.facts.connections, allowed, c.sink.cfg.MaxConnectionShare, used)
	raise := strings.Replace(c.facts.raise, "%d", "…", 1)
	switch need := min(lanes+1, allowed); {
	case lanes+1 > allowed:
		c.warn(what, field, raise+", or configure fewer lanes", "%s: the flow has %s instead of %d", found, count(allowed-1, "lane", "lanes"), lanes)
	case used+need > c.facts.connections:
		c.warn(what, field, raise+", or close some of those in use", "%s, and the flow needs %d", found, need)
	default:
		c.ok(what, "%s", found)
	}
	return nil
}
