package postgres

import (
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"
)

// parseURL parses what the configuration calls url. Every error is in the words
// of this file: pgconn and net/url quote what they cannot read, and that may be
// a part of the password.
func parseURL(raw string) (*pgconn.Config, error) {
	isURL := strings.HasPrefix(raw, "postgres://") || strings.HasPrefix(raw, "postgresql://")
	if isURL {
		if err := checkURL(raw); err != nil {
			return nil, err
		}
	}
	cfg, err := pgconn.ParseConfig(raw)
	if err == nil {
		return cfg, nil
	}
	text := err.Error()
	for _, p := range parseProblems {
		if strings.Contains(text, p.pgconn) {
			return nil, errors.New(p.words)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("a file that sslrootcert, sslcert, sslkey or service names does not exist")
	case strings.Contains(text, ": failed to configure TLS"):
		return nil, errors.New("sslmode must be disable, allow, prefer, require, verify-ca or verify-full, and the files of sslrootcert, sslcert and sslkey must be readable PEM")
	case isURL:
		return nil, errors.New("not a URL like postgres://user:password@host:5432/database: the port must be a number, and " + encodeHint)
	}
	return nil, errors.New("not a PostgreSQL URL (postgres://user@host:5432/database) or list of key=value pairs, in which a value with spaces is quoted: password='a b'")
}

const encodeHint = "special characters in the password must be percent-encoded: / as %2F, ? as %3F, # as %23, @ as %40, % as %25, a space as %20"

// parseProblems are messages of pgconn, and what is said instead.
var parseProblems = []struct{ pgconn, words string }{
	{": invalid port", "the port must be a number from 1 to 65535; " + encodeHint},
	{": could not match ", "there must be one port, or as many as hosts"},
	{": invalid connect_timeout", "connect_timeout must be a whole number of seconds"},
	{": failed to read service", "the service is not in the service file, or the file cannot be read"},
	{": invalid sslcertmode", "sslcertmode must be disable, allow or require"},
	{": unknown target_session_attrs", "target_session_attrs must be any, read-write, read-only, primary, standby or prefer-standby"},
	{": invalid min_protocol_version", "min_protocol_version must be 3.0, 3.2 or latest"},
	{": invalid max_protocol_version", "max_protocol_version must be 3.0, 3.2 or latest"},
	{": min_protocol_version", "min_protocol_version must not be greater than max_protocol_version"},
	{": unknown channel_binding", "channel_binding must be disable, prefer or require"},
	{": invalid require_auth", "require_auth has a method that is not known"},
}

// checkURL refuses a URL that can be parsed, but with a part of the password as
// something else, which would be shown as the name of a host or a database.
func checkURL(raw string) error {
	if strings.ContainsFunc(raw, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errors.New("the URL has a space, a line break or a control character in it; " + encodeHint)
	}
	_, rest, _ := strings.Cut(raw, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		return nil
	}
	path, params, _ := strings.Cut(rest[end:], "?")
	if strings.ContainsAny(strings.TrimPrefix(path, "/"), "/:@") || strings.Contains(rest, "#") || strings.Contains(params, "@") {
		return errors.New("the database name or the parameters have one of / : @ # in them, as if the password ended too early; " + encodeHint)
	}
	return nil
}
