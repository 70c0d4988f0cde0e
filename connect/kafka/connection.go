package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/kafka/login"
)

// Connection says how to reach a cluster, and as whom.
type Connection struct {
	Brokers  []string `yaml:"brokers" doc:"Addresses (host:port) to learn the cluster from; two or three are enough."`
	ClientID string   `yaml:"client_id" default:"penstock" doc:"Name of this client in the brokers' logs, metrics and quotas."`
	TLS      *TLS     `yaml:"tls" doc:"Encrypt, and check the brokers' certificates. An empty mapping uses the system's CAs. Absent: plain text."`
	SASL     *SASL    `yaml:"sasl" doc:"Log in, with a password or a token."`
}

type (
	// TLS says how a connection encrypts.
	TLS = login.TLS
	// SASL says how it logs in.
	SASL = login.SASL
	// OAuth says where the token to log in with comes from.
	OAuth = login.OAuth
)

// answerTimeout bounds a question to the cluster where nobody else does.
const answerTimeout = 15 * time.Second

// Validate refuses impossible combinations with a *connect.FieldError for each
// of them.
func (c *Connection) Validate() error {
	var errs []error
	for i, b := range c.Brokers {
		if !isAddress(b) {
			errs = append(errs, connect.Errorf(fmt.Sprintf("brokers[%d]", i), "%q is not a broker's address; write host:port, with a port from 1 to 65535", b))
		}
	}
	return errors.Join(append(errs, login.Check(c.TLS, c.SASL))...)
}

// isAddress says whether b is a host, or host:port.
func isAddress(b string) bool {
	host, port, err := net.SplitHostPort(b)
	if err != nil { // without a port kgo takes 9092; an IPv6 address may stand alone
		host, port = b, "9092"
		if strings.Contains(b, ":") && net.ParseIP(b) == nil {
			return false
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("/,;@?#", r)
	})
}

// complete takes the source's connection where nothing says where to connect;
// only the client's name may differ.
func (c *Connection) complete(source *Connection) {
	if !c.unset() {
		return
	}
	id := c.ClientID
	*c = *source
	if id != "" {
		c.ClientID = id
	}
}

// unset reports whether nothing says where to connect.
func (c *Connection) unset() bool {
	return len(c.Brokers) == 0 && c.TLS == nil && c.SASL == nil
}

// missing is the error of a connection without brokers, which the source's would
// take the place of.
func (c *Connection) missing() error {
	switch {
	case len(c.Brokers) > 0:
		return nil
	case c.unset():
		return connect.Errorf("brokers", "name at least one broker, as host:port: the source gives none")
	}
	return connect.Errorf("brokers", "the connection is taken from the source only as a whole: name the brokers beside tls and sasl, or remove tls and sasl here")
}

// principal names whom the cluster sees, for messages.
func (c *Connection) principal() string {
	name, known := login.Principal(c.TLS, c.SASL)
	name = strings.TrimPrefix(name, "User:")
	switch {
	case c.SASL != nil && known:
		return "user " + name
	case c.SASL != nil:
		return "the owner of the token"
	case c.TLS != nil && c.TLS.CertFile != "" && known:
		return "the owner of certificate " + c.TLS.CertFile + " (" + name + ")"
	case c.TLS != nil && c.TLS.CertFile != "":
		return "the owner of certificate " + c.TLS.CertFile
	default:
		return "the anonymous user"
	}
}

func (c *Connection) addresses() string { return strings.Join(c.Brokers, ", ") }

// options are those that every client of the connection shares.
func (c *Connection) options(log *slog.Logger) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("penstock", "1"),
		kgo.DisableClientMetrics(),
		kgo.WithLogger(kgoLogger{log}),
	}
	auth, err := login.Options(c.TLS, c.SASL, log)
	return append(opts, auth...), err
}

// kgoLogger passes what kgo says on: its errors and warnings are details of
// what it retries by itself, worth a debug line at most.
type kgoLogger struct{ log *slog.Logger }

func (l kgoLogger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	//nolint:sloglint // kgo brings message and keys
	l.log.Debug("kgo: "+msg, append([]any{slog.String("kgo_level", fmt.Sprint(level))}, keyvals...)...)
}
