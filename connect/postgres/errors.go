package postgres

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// The SQLSTATEs that this package decides on.
const (
	codeLockNotAvailable   = "55P03"
	codeInsufficientRights = "42501"
	codeNoSuchSchema       = "3F000"
	codeNoSuchDatabase     = "3D000"
	codeReadOnly           = "25006"
	codeUniqueViolation    = "23505"
	codeNotSupported       = "0A000"
	codeQueryCanceled      = "57014"
)

// sqlState returns the SQLSTATE of a server error, or "".
func sqlState(err error) string {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pe.Code
	}
	return ""
}

// classify gives a server or network error its class. Errors that have one
// keep it.
func classify(doing string, err error) error {
	if err == nil || flow.ClassOf(err) != flow.ClassUnknown {
		return err
	}
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		// Without an answer of the server it is the connection, or the context.
		err = fmt.Errorf("%s: %w", doing, err)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return flow.Transient(err)
		}
		return flow.Unreachable(err)
	}
	err = fmt.Errorf("%s: %w", doing, describe(pe, err))
	if isAway(pe) {
		return flow.Unreachable(err)
	}
	switch classOf(pe) {
	case flow.ClassTransient:
		return flow.Transient(err)
	case flow.ClassFatal:
		return flow.Fatal(err)
	case flow.ClassData:
		return dataError(pe, err)
	case flow.ClassUnknown, flow.ClassFenced:
	}
	return err
}

// classifyRows is classify for the statements that write the flow's rows, and
// for COMMIT. What they run of the user's, triggers above all, may have SQLSTATEs of its
// own: such an error is the data's where COPY names the line, or where it comes from a function.
func classifyRows(doing string, err error) error {
	err = classify(doing, err)
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || flow.ClassOf(err) != flow.ClassUnknown || !isError(pe) {
		return err
	}
	switch pe.Code[:min(2, len(pe.Code))] {
	case "58", "F0", "HV", "XX": // the trouble of the server, or of one behind a foreign table
		return err
	}
	if copyLine(pe) > 0 || strings.Contains(pe.Where, "PL/") { // PL/pgSQL, PL/Python, …
		return dataError(pe, err)
	}
	return err
}

func classOf(pe *pgconn.PgError) flow.Class {
	switch pe.Code {
	case "22P03", "22P04":
		// What was sent is not what the column reads: the table was changed.
		return flow.ClassFatal
	case "08P01":
		// As an error of COPY it is that, too. PgBouncer gives this code to
		// everything that it says before it closes the connection, an outage of
		// the server among them.
		if isError(pe) && copyContext(pe) != "" {
			return flow.ClassFatal
		}
	case "40001", "40P01", codeLockNotAvailable, "55006", codeQueryCanceled, "57P01", "57P02", "57P03", "57P05",
		"25P02", "25P03", "25P04", codeReadOnly, "58000", "58030":
		return flow.ClassTransient
	case "21000", // two rows of a batch are equal to the index, if not byte by byte
		"44000", // WITH CHECK OPTION
		"54000", // an index row is too large
		"P0001": // RAISE EXCEPTION in a trigger
		return flow.ClassData
	case codeNoSuchDatabase, codeNoSuchSchema, codeNotSupported:
		return flow.ClassFatal
	}
	switch pe.Code[:min(2, len(pe.Code))] {
	case "08", "53":
		return flow.ClassTransient
	case "22", "23":
		return flow.ClassData
	case "28", "42":
		return flow.ClassFatal
	}
	return flow.ClassUnknown
}

// isAway says that there is no server to write to at the moment: it stops, starts or
// recovers, PgBouncer has none, or the one that answers is (still) a standby.
func isAway(pe *pgconn.PgError) bool {
	switch pe.Code {
	case "57P01", "57P02", "57P03", codeReadOnly:
		return true
	}
	return strings.HasPrefix(pe.Code, "08") && !isError(pe)
}

// describe adds what the server says beside its message, and what to do.
func describe(pe *pgconn.PgError, err error) error {
	var more []string
	// The detail of a violation shows the record's values, and errors are logged, and
	// shown to whoever asks for the flow's status.
	if pe.Detail != "" && !strings.HasPrefix(pe.Code, "23") && pe.Code != "44000" {
		more = append(more, pe.Detail)
	}
	if pe.Hint != "" {
		more = append(more, pe.Hint)
	}
	switch pe.Code {
	case codeInsufficientRights:
		what := "Grant the role the right"
		if schema, ok := strings.CutPrefix(pe.Message, "permission denied for schema "); ok { // the server's language may be another
			what = "As its owner: GRANT USAGE ON SCHEMA " + schema + " TO the role"
		}
		more = append(more, what+", and start the flow again")
	case codeNoSuchDatabase:
		more = append(more, "To go on, correct the name in url, or create the database (createdb)")
	case "28P01", "28000":
		more = append(more, "Check user and password, and pg_hba.conf on the server")
	case codeReadOnly:
		more = append(more, "This is a standby, or the database is set to read only. The flow connects anew and tries again: "+
			"for a failover, url must lead to the primary (several hosts, and target_session_attrs=read-write)")
	case "53100":
		more = append(more, "The disk of the server, or of a tablespace, is full: free space, or make it larger. The flow goes on by itself")
	case "53200":
		more = append(more, "The server has no memory left for this, or its lock table is full (max_locks_per_transaction). The flow tries again; if that does not help, "+
			"give the server more, or use fewer lanes or smaller batches")
	case "53300":
		more = append(more, "The limit is "+connectionLimit(pe)+": use fewer lanes, or raise it. The flow tries again")
	case "57P01", "57P02", "57P03":
		more = append(more, "The server stops, restarts or recovers, or somebody ended this connection. The flow goes on by itself")
	}
	if len(more) == 0 {
		return err
	}
	return fmt.Errorf("%w. %s", err, strings.Join(more, ". "))
}

// dataError makes the error for records at fault. Its rows are not known yet:
// the writer knows which row was COPY's n-th.
func dataError(pe *pgconn.PgError, err error) *flow.DataError {
	class := "rejected"
	switch {
	case pe.Code == "23502":
		class = "null"
	case pe.Code == "22003" || pe.Code == "22001" || pe.Code == "22008":
		class = "range"
	case pe.Code == "22021" || pe.Code == "22P05":
		class = "encoding"
	case pe.Code == "54000":
		class = "oversized"
	case strings.HasPrefix(pe.Code, "22"):
		class = "type"
	case strings.HasPrefix(pe.Code, "23"), pe.Code == "21000", pe.Code == "44000", pe.Code == "P0001":
		class = "constraint"
	}
	return &flow.DataError{Err: &flow.RecordError{Class: class, Column: pe.ColumnName, Err: err}}
}

// copyContext returns the context that COPY gives, or "".
func copyContext(pe *pgconn.PgError) string {
	where := pe.Where[strings.LastIndexByte(pe.Where, '\n')+1:]
	if !strings.HasPrefix(where, "COPY ") {
		return ""
	}
	return where
}

// isError says that the statement has failed, and not the connection. PgBouncer
// does not send the severity that is never translated.
func isError(pe *pgconn.PgError) bool {
	return cmp.Or(pe.SeverityUnlocalized, pe.Severity) == "ERROR"
}

// copyLine returns the row that COPY's context names, counted from 1, or 0.
// The context of COPY is the outermost, so the last line:
//
//	PL/pgSQL function check_temp() line 3 at RAISE
//	COPY telemetry, line 17, column temp
func copyLine(pe *pgconn.PgError) int {
	_, after, ok := strings.Cut(copyContext(pe), ", line ")
	if !ok {
		return 0
	}
	end := strings.IndexFunc(after, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(after)
	}
	n, err := strconv.Atoi(after[:end])
	if err != nil {
		return 0
	}
	return n
}

// connectionLimit names the limit that a refused connection has hit. The message
// is in the server's language; the function that refuses is not.
func connectionLimit(pe *pgconn.PgError) string {
	switch pe.Routine {
	case "InitializeSessionUserId":
		return "the role's (ALTER ROLE … CONNECTION LIMIT)"
	case "CheckMyDatabase":
		return "the database's (ALTER DATABASE … CONNECTION LIMIT)"
	}
	return "max_connections of the server"
}

// connectError classifies an error that occurred while connecting, and says in
// one line what to check.
func connectError(err error) error {
	const doing = "connect to PostgreSQL"
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		verify    *tls.CertificateVerificationError
		dns       *net.DNSError
		pe        *pgconn.PgError
	)
	short := &connectionError{text: connectText(err), err: err}
	switch {
	case errors.As(err, &pe):
		if badParameter(pe) {
			// The name or the value may be the second half of a password.
			return flow.Fatal(fmt.Errorf("%s: the server refuses a parameter of the url (SQLSTATE %s): "+
				"check its names and values; a password with spaces must be quoted, one with & or ? percent-encoded in a URL", doing, pe.Code))
		}
		return classify(doing, short)
	case errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &host), errors.As(err, &verify):
		return flow.Fatal(fmt.Errorf("%s: %w; check sslrootcert, the server's name and its certificate", doing, short))
	case errors.As(err, &dns) && dns.IsNotFound:
		short.text += "; check the host in url"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		short.text += "; check that the server runs, and the host and port in url"
	case errors.Is(err, context.DeadlineExceeded):
		short.text += "; nobody answers within connect_timeout: check the host and port in url, and firewalls on the way"
		return flow.Unreachable(fmt.Errorf("%s: %w", doing, short))
	}
	return classify(doing, short)
}

// badParameter says that the server complains about a parameter of the connection.
func badParameter(pe *pgconn.PgError) bool {
	switch pe.Code {
	case "42704", "42602", "22023", "55P02": // not known, no name, no value of it, not to be set
		return true
	}
	return strings.Contains(pe.Message, "startup parameter") // PgBouncer, under 08P01
}

// connectText is the text of a connection error without user and database,
// which the server names where they matter, in one line, nothing twice.
func connectText(err error) string {
	if ce, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = ce.Unwrap()
	}
	var lines []string
	for line := range strings.Lines(strings.TrimPrefix(err.Error(), "hostname resolving error: ")) {
		line = strings.Replace(line, "ValidateConnect failed: read only connection", "this is a standby, or read only, and must be promoted", 1)
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// connectionError is an error under another text.
type connectionError struct {
	text string
	err  error
}

func (e *connectionError) Error() string { return e.text }
func (e *connectionError) Unwrap() error { return e.err }
