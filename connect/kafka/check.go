package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
)

const (
	// checkTime bounds all that one Check does, reachTime its first word with each broker.
	checkTime = 20 * time.Second
	reachTime = 5 * time.Second
	// expirySoon is how long before its end a certificate is warned of.
	expirySoon = 14 * 24 * time.Hour
)

// checks collects what is found in a cluster.
type checks struct {
	conn *Connection
	// inherited says that the connection is that of the source, which checks it.
	inherited bool
	c         *cluster
	clusterID string
	versions  map[int32]kadm.BrokerApiVersions // of the brokers that answer
	list      []connect.Check
}

// startChecks connects. ok is false where nothing more can be asked. close frees.
func startChecks(ctx context.Context, conn, source *Connection, extra []kgo.Opt) (k *checks, ok bool) {
	k = &checks{conn: conn, inherited: source != nil && slices.Equal(conn.Brokers, source.Brokers) && conn.TLS == source.TLS && conn.SASL == source.SASL}
	seen := &handshakes{}
	opts, err := conn.options(slog.New(slog.DiscardHandler))
	if err != nil {
		k.fault("brokers "+conn.addresses(), "", err)
		return k, false
	}
	opts = slices.Concat(opts, []kgo.Opt{kgo.WithHooks(seen)}, extra)
	alive := k.reach(ctx, opts)
	if len(alive) == 0 {
		return k, false
	}
	if k.c, err = newCluster(conn, append(slices.Clone(opts), kgo.SeedBrokers(alive...))); err != nil {
		k.fault("brokers "+conn.addresses(), "", err)
		return k, false
	}
	if !k.brokers(ctx) {
		return k, false
	}
	if !k.inherited {
		k.login(seen)
	}
	return k, true
}

func (k *checks) close() {
	if k.c != nil {
		k.c.close()
	}
}

func (k *checks) add(status connect.CheckStatus, what, field, next, found string) {
	k.list = append(k.list, connect.Check{What: what, Status: status, Found: found, Next: next, Field: field})
}

func (k *checks) ok(what, field, found string, args ...any) {
	k.add(connect.CheckOK, what, field, "", fmt.Sprintf(found, args...))
}

func (k *checks) warn(what, field, next, found string, args ...any) {
	k.add(connect.CheckWarning, what, field, next, fmt.Sprintf(found, args...))
}

func (k *checks) fail(what, field, next, found string, args ...any) {
	k.add(connect.CheckFailed, what, field, next, fmt.Sprintf(found, args...))
}

// fault is the check of something that could not be looked at.
func (k *checks) fault(what, field string, err error) {
	next := ""
	found := strings.TrimPrefix(err.Error(), "kafka: ")
	if e, ok := errors.AsType[*explained](err); ok {
		found, next = strings.TrimPrefix(e.error.Error(), "kafka: "), e.hint
	}
	if f, ok := errors.AsType[*connect.FieldError](err); ok {
		field = f.Path
	}
	if field == "" && !k.inherited {
		field = fieldOf(err)
	}
	k.add(connect.CheckFailed, what, field, cmp.Or(next, "see that the brokers run and answer, and check again"), found)
}

// fieldOf is the field that an error of a connection is about.
func fieldOf(err error) string {
	var (
		ca   x509.UnknownAuthorityError
		host x509.HostnameError
		not  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &ca):
		return "tls.ca_file"
	case errors.As(err, &host):
		return "tls.server_name"
	case errors.As(err, &not), strings.Contains(err.Error(), "tls"):
		return "tls"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "sasl.mechanism"
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.IllegalSaslState):
		return "sasl"
	}
	return "brokers"
}

// reach asks each of the configured brokers, and returns those that answer.
func (k *checks) reach(ctx context.Context, opts []kgo.Opt) (alive []string) {
	errs := make([]error, len(k.conn.Brokers))
	var wg sync.WaitGroup
	for i, b := range k.conn.Brokers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, reachTime)
			defer cancel()
			one := *k.conn
			one.Brokers = []string{b}
			c, err := newCluster(&one, append(slices.Clone(opts), kgo.SeedBrokers(b)))
			if err == nil {
				defer c.close()
				_, err = c.adm.BrokerMetadata(ctx)
			}
			errs[i] = one.explain("connecting", err)
		})
	}
	wg.Wait()
	for i, b := range k.conn.Brokers {
		if errs[i] == nil {
			alive = append(alive, b)
		}
	}
	for i, b := range k.conn.Brokers {
		field := fmt.Sprintf("brokers[%d]", i)
		if errs[i] == nil || k.inherited && len(alive) > 0 {
			continue
		}
		if k.inherited || fieldOf(errs[i]) != "brokers" {
			field = ""
		}
		k.fault("broker "+b, field, errs[i])
		if len(alive) > 0 { // the others serve
			k.list[len(k.list)-1].Status = connect.CheckWarning
		}
	}
	return alive
}

// brokers asks all brokers of the cluster for their versions.
func (k *checks) brokers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	start := time.Now()
	md, err := k.c.adm.BrokerMetadata(ctx)
	if err != nil {
		k.fault("brokers "+k.conn.addresses(), "", k.conn.explain("asking for the brokers", err))
		return false
	}
	took := time.Since(start)
	k.clusterID, k.versions = md.Cluster, map[int32]kadm.BrokerApiVersions{}
	answers, err := k.c.adm.ApiVersions(ctx)
	if err != nil {
		k.fault("brokers "+k.conn.addresses(), "", k.conn.explain("asking for versions", err))
		return false
	}
	var guesses []string
	for _, b := range md.Brokers {
		v, ok := answers[b.NodeID]
		if err := cmp.Or(v.Err, ctx.Err()); !ok || v.Err != nil {
			if !k.inherited {
				k.fail(fmt.Sprintf("broker %d", b.NodeID), "brokers",
					"check that it runs, and that the address that it advertises (advertised.listeners) can be reached from here",
					"the cluster says that it is at %s, and it does not answer there: %v", net.JoinHostPort(b.Host, fmt.Sprint(b.Port)), err)
			}
			continue
		}
		k.versions[b.NodeID] = v
		guesses = append(guesses, strings.TrimPrefix(v.VersionGuess(), "v"))
	}
	slices.Sort(guesses)
	if !k.inherited && len(guesses) > 0 {
		k.ok("brokers "+k.conn.addresses(), "brokers", "Kafka %s, %s, cluster %s; answered in %s",
			strings.Join(slices.Compact(guesses), " and "), count(len(md.Brokers), "broker"), md.Cluster, took.Round(100*time.Microsecond))
	}
	return true
}

// handshakes notes the TLS states of a client's connections.
type handshakes struct {
	mu     sync.Mutex
	states []tls.ConnectionState
}

var _ kgo.HookBrokerConnect = (*handshakes)(nil)

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *handshakes) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, conn net.Conn, _ error) {
	if c, ok := conn.(*tls.Conn); ok && c != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.states = append(h.states, c.ConnectionState())
	}
}

// login says as whom, and how safely, the connection was made.
func (k *checks) login(seen *handshakes) {
	const what = "login"
	how, field := "as "+k.conn.principal(), ""
	if k.conn.SASL != nil {
		how, field = how+" by "+k.conn.SASL.Mechanism, "sasl"
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	var first time.Time // end of the certificate that ends first
	for _, s := range seen.states {
		if len(s.PeerCertificates) > 0 && (first.IsZero() || s.PeerCertificates[0].NotAfter.Before(first)) {
			first = s.PeerCertificates[0].NotAfter
		}
	}
	switch {
	case k.conn.TLS == nil && k.conn.SASL != nil:
		k.warn(what, "tls", "set tls, and use the brokers' TLS listener", "%s, in plain text: whoever sits between can read the login and the records", how)
	case k.conn.TLS == nil:
		k.ok(what, field, "%s, in plain text", how)
	case k.conn.TLS.InsecureSkipVerify:
		k.warn(what, "tls.insecure_skip_verify", "set tls.ca_file in its place", "%s, over TLS with whoever answers: the brokers' certificates are not checked", how)
	case len(seen.states) == 0:
		k.ok(what, field, "%s, over TLS", how)
	default:
		k.ok(what, field, "%s, over %s", how, tls.VersionName(seen.states[0].Version))
		k.expiry("the brokers' certificate", "tls", first)
	}
	if t := k.conn.TLS; t != nil && t.CertFile != "" {
		if pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err == nil {
			k.expiry("client certificate "+t.CertFile, "tls.cert_file", pair.Leaf.NotAfter)
		}
	}
}

func (k *checks) expiry(what, field string, end time.Time) {
	if left := time.Until(end); !end.IsZero() && left < expirySoon {
		k.warn(what, field, "renew it; files are read again for new connections", "it ends at %s, in %s", end.UTC().Format(time.RFC3339), age(left))
	}
}

// tool is a command of Kafka's own tools.
func (k *checks) tool(name string, args ...string) string {
	words := append([]string{name, "--bootstrap-server", k.conn.Brokers[0]}, args...)
	if k.conn.TLS != nil || k.conn.SASL != nil {
		words = append(words, "--command-config", "admin.properties")
	}
	return strings.Join(words, " ")
}

// alter is the command that sets a topic's setting.
func (k *checks) alter(topic, setting string) string {
	return k.tool("kafka-configs.sh", "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", setting)
}

// grant is the command that grants a right.
func (k *checks) grant(rights ...right) string {
	hint, _ := k.conn.diagnoseRights("", errorFor[rights[0].resource], rights)
	return hint
}

// errorFor is what the cluster says where a right to the resource is missing.
var errorFor = map[string]error{
	"topic": kerr.TopicAuthorizationFailed, "group": kerr.GroupAuthorizationFailed,
	"transactional-id": kerr.TransactionalIDAuthorizationFailed, "cluster": kerr.ClusterAuthorizationFailed,
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// age writes a duration as people do.
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return d.Round(time.Second).String()
}
