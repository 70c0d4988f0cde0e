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
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/kafka/login"
	"github.com/penstockdev/penstock/flow"
)

// explain wraps what the cluster or the network said with what was being done,
// on what, by whom, and what to do next; and gives it a class. Where a right is
// missing, needs are the rights that the operation asks for; without them doing
// is searched for a topic or a group, and the right is that to read.
func (c *Connection) explain(doing string, err error, needs ...right) error {
	if err == nil || flow.ClassOf(err) != flow.ClassUnknown {
		return err
	}
	err = bare(err)
	hint, class := c.diagnose(doing, err, needs)
	if hint == notKafka {
		err = errNotKafka
	}
	out := fmt.Errorf("kafka: %s (brokers %s): %w", doing, c.addresses(), err)
	if hint != "" {
		out = &explained{out, hint}
	}
	switch class {
	case flow.ClassTransient:
		return flow.Transient(out)
	case flow.ClassFatal:
		return flow.Fatal(out)
	case flow.ClassUnknown, flow.ClassData, flow.ClassFenced:
	}
	return out
}

// bare takes kadm's words off an error that a single broker has answered.
func bare(err error) error {
	if e, ok := errors.AsType[*kadm.ShardErrors](err); ok && len(e.Errs) == 1 {
		err = e.Errs[0].Err
	}
	if e, ok := errors.AsType[*kadm.AuthError](err); ok {
		err = e.Err
	}
	return err
}

// explained is an error that knows what to do next.
type explained struct {
	error
	hint string
}

func (e *explained) Error() string { return e.error.Error() + "; " + e.hint }
func (e *explained) Unwrap() error { return e.error }

// What takes the place of kgo's words about the size of an answer.
var errNotKafka = errors.New("what answers there is not a Kafka broker")

// offerTime bounds how long an error waits for what the brokers offer.
const offerTime = 3 * time.Second

const notKafka = "check the host and the port in brokers; if the listener wants TLS, set tls"

func (c *Connection) diagnose(doing string, err error, needs []right) (hint string, class flow.Class) {
	if token, ok := errors.AsType[*login.TokenError](err); ok { // before the network's errors, which may be inside
		if token.Temporary {
			return "", flow.ClassTransient
		}
		return "", flow.ClassFatal
	}
	if hint, ok := c.diagnoseTLS(err); ok {
		return hint, flow.ClassFatal
	}
	if hint, class := c.diagnoseLogin(err); class != flow.ClassUnknown {
		return hint, class
	}
	if hint, ok := c.diagnoseRights(doing, err, needs); ok {
		return hint, flow.ClassFatal
	}
	var (
		eof   *kgo.ErrFirstReadEOF
		dns   *net.DNSError
		op    *net.OpError
		field *connect.FieldError
	)
	switch {
	case errors.As(err, &field), errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return "", flow.ClassFatal
	case strings.Contains(err.Error(), "invalid large response size"): // kgo's words
		return notKafka, flow.ClassFatal
	case errors.As(err, &eof):
		// Also what a broker looks like that is being stopped: retried a few times.
		return "a broker that speaks another protocol on this port does that: check tls and sasl against the listener", flow.ClassUnknown
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the name %s is not known: check brokers, and the addresses that the brokers advertise", dns.Name), flow.ClassTransient
	case errors.As(err, &op) && op.Op == "dial":
		return "check that the brokers run and that brokers, and the addresses they advertise, can be reached from here", flow.ClassTransient
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time: check that the brokers run and can be reached from here", flow.ClassTransient
	case errors.Is(err, context.Canceled), kerr.IsRetriable(err):
		return "", flow.ClassTransient
	case errors.As(err, &op), kgo.IsRetryableBrokerErr(err):
		return "the connection was lost: check that the brokers run and can be reached from here", flow.ClassTransient
	}
	return "", flow.ClassUnknown
}

func (c *Connection) diagnoseTLS(err error) (string, bool) {
	var (
		unknownCA x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknownCA):
		return "the broker's certificate is signed by a CA that is not trusted here: set tls.ca_file to that CA's PEM file", true
	case errors.As(err, &host):
		return "the broker's certificate is for another name: use that name in brokers, or set tls.server_name", true
	case errors.As(err, &invalid):
		return "the broker's certificate is not valid: renew it, or check this machine's clock", true
	case errors.As(err, &notTLS):
		return "this port does not speak TLS: remove tls, or use the TLS listener's port", true
	case strings.Contains(err.Error(), "speaking to a tls endpoint"): // kgo's words
		return "this port speaks TLS: set tls (an empty mapping will do, or ca_file), or use the plain listener's port", true
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "the broker refused the TLS handshake, as a rule for a client certificate that is missing or that its CA did not sign: check tls.cert_file and tls.key_file", true
	}
	return "", false
}

func (c *Connection) diagnoseLogin(err error) (string, flow.Class) {
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed) && c.SASL.MayBeChanging():
		return c.principal() + " is refused, and was not before: if the password or the token has been changed, its file must have the new one within a minute", flow.ClassTransient
	case errors.Is(err, kerr.SaslAuthenticationFailed) && c.SASL != nil && c.SASL.OAuth != nil:
		return "the token of " + strings.TrimPrefix(c.principal(), "the owner of ") + " was refused: check its issuer, audience and scope (sasl.oauth) against what the brokers expect, and the clocks", flow.ClassFatal
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return c.principal() + " was refused: check sasl.username, the password and sasl.mechanism", flow.ClassFatal
	case errors.Is(err, kerr.IllegalSaslState) && c.SASL.Accepted():
		return "a login held for less than two seconds, and brokers take one a second: set their connections.max.reauth.ms to more, or see that tokens live longer", flow.ClassTransient
	case errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		mechanism := "none"
		if c.SASL != nil {
			mechanism = c.SASL.Mechanism
		}
		return "the listener does not accept SASL mechanism " + mechanism + ": set sasl.mechanism to one that it offers" + c.offered() + ", or use another port", flow.ClassFatal
	}
	return "", flow.ClassUnknown
}

// offered names the SASL mechanisms of the brokers, if one answers soon: kgo
// keeps that to itself.
//
//nolint:contextcheck,nolintlint // for an error, whose context may have ended; offerTime bounds it. nolintlint does not see that it counts
func (c *Connection) offered() string {
	dial, err := login.Options(c.TLS, nil, slog.Default())
	if err != nil || c.SASL == nil {
		return ""
	}
	cl, err := kgo.NewClient(append(dial, kgo.SeedBrokers(c.Brokers...), kgo.DisableClientMetrics(), kgo.RequestRetries(0))...)
	if err != nil {
		return ""
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(cl.Context(), offerTime)
	defer cancel()
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Mechanism = c.SASL.Mechanism
	for _, b := range cl.SeedBrokers() {
		answer, err := b.Request(ctx, req)
		if resp, ok := answer.(*kmsg.SASLHandshakeResponse); ok && err == nil && len(resp.SupportedMechanisms) > 0 {
			return " (" + strings.Join(resp.SupportedMechanisms, ", ") + ")"
		}
	}
	return ""
}

// right is something that an ACL can allow: operations on one resource.
type right struct {
	resource   string // as kafka-acls.sh calls it: topic, group, cluster, transactional-id
	name       string // empty for the cluster
	operations []string
	prefix     bool // name is how the names of the resources begin
}

// Rights that operations ask for. Read and Write include Describe.
func mayRead(topic string) right {
	return right{resource: "topic", name: topic, operations: []string{"Read"}}
}

func mayWrite(topic string) right {
	return right{resource: "topic", name: topic, operations: []string{"Write"}}
}

func mayDescribe(topic string) right {
	return right{resource: "topic", name: topic, operations: []string{"Describe"}}
}

func mayCreate(topic string) right {
	return right{resource: "topic", name: topic, operations: []string{"Create"}}
}

func mayJoin(group string) right {
	return right{resource: "group", name: group, operations: []string{"Read"}}
}

// mayTransact is for all transactional ids that begin so.
func mayTransact(prefix string) right {
	return right{resource: "transactional-id", name: prefix, operations: []string{"Write"}, prefix: prefix != ""}
}

func mayWriteIdempotently() right {
	return right{resource: "cluster", operations: []string{"IdempotentWrite"}}
}

func (r right) String() string {
	s, resource := strings.Join(r.operations, " and ")+" on ", strings.ReplaceAll(r.resource, "-", " ")
	switch {
	case r.name == "":
		return s + "the " + resource
	case r.prefix:
		return s + resource + "s that begin with " + r.name
	}
	return s + resource + " " + r.name
}

// command grants the right, if an administrator runs it.
func (r right) command(broker, principal string) string {
	words := []string{"kafka-acls.sh --bootstrap-server", broker, "--command-config admin.properties --add --allow-principal", shellWord(principal)}
	for _, o := range r.operations {
		words = append(words, "--operation", o)
	}
	words = append(words, "--"+r.resource)
	if r.resource != "cluster" {
		words = append(words, shellWord(cmp.Or(r.name, "NAME")))
	}
	if r.prefix {
		words = append(words, "--resource-pattern-type prefixed")
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// The names in what this package says that it does.
var (
	groupNamed = regexp.MustCompile(`\bgroup (\S+)`)
	topicNamed = regexp.MustCompile(`\btopics? (\S+?)(?:,|$)|(\S+)\[\d+\]`)
)

// lacks returns the rights of which the error says that one is missing.
func lacks(doing string, err error, needs []right) []right {
	name := func(re *regexp.Regexp) string {
		if m := re.FindStringSubmatch(doing); m != nil {
			return strings.Join(m[1:], "")
		}
		return ""
	}
	var fallback right
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		fallback = mayRead(name(topicNamed))
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		fallback = mayJoin(name(groupNamed))
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		fallback = mayTransact("")
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		fallback = mayWriteIdempotently() // all else that asks for a right on the cluster names it
	default:
		return nil
	}
	var out []right
	for _, r := range needs {
		if r.resource == fallback.resource {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		out = append(out, fallback)
	}
	return out
}

func (c *Connection) diagnoseRights(doing string, err error, needs []right) (string, bool) {
	missing := lacks(doing, err, needs)
	if len(missing) == 0 {
		return "", false
	}
	principal, known := login.Principal(c.TLS, c.SASL)
	if !known {
		principal = "User:NAME"
	}
	broker := "HOST:PORT"
	if len(c.Brokers) > 0 {
		broker = c.Brokers[0]
	}
	var names, commands []string
	for _, r := range missing {
		names = append(names, r.String())
		commands = append(commands, r.command(broker, principal))
	}
	return fmt.Sprintf("%s may not do this: grant it %s, as an administrator with: %s", c.principal(), strings.Join(names, ", and "), strings.Join(commands, " && ")), true
}

// tooLarge explains a batch that the limit does not let in.
func (c *SourceConfig) tooLarge(p flow.Partition, offset int64) error {
	return flow.Fatal(fmt.Errorf("kafka: the batch at offset %d of %s is larger than fetch.batch_limit (%s) after decompression: raise it",
		offset, p, c.Fetch.BatchLimit))
}

// explainSession is explain for an error that ended or prevented membership in
// the group. kgo tries again by itself.
func (c *SourceConfig) explainSession(err error) error {
	doing := "joining group " + c.Group
	var hint string
	switch {
	case errors.Is(err, kerr.FencedInstanceID):
		hint = "another process uses instance_id " + c.InstanceID + " in the same group: give every process its own"
	case errors.Is(err, kerr.InconsistentGroupProtocol):
		hint = "the other members of the group share partitions out in another way than " + c.Assignor +
			": set assignor to theirs, or use a group of its own"
	case errors.Is(err, kerr.InvalidSessionTimeout):
		hint = fmt.Sprintf("the broker does not allow a session_timeout of %s: set one between its group.min.session.timeout.ms and group.max.session.timeout.ms",
			c.SessionTimeout)
	case errors.Is(err, kerr.InvalidGroupID):
		hint = "the group's name is not allowed: choose another"
	case errors.Is(err, kerr.UnsupportedVersion):
		hint = "the cluster is too old"
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress),
		errors.Is(err, kerr.GroupMaxSizeReached):
		return flow.Transient(fmt.Errorf("kafka: the group %s went on without this process (%w); joining again", c.Group, err))
	default:
		return c.explain(doing, err)
	}
	return flow.Fatal(fmt.Errorf("kafka: %s (brokers %s): %w; %s", doing, c.addresses(), err, hint))
}
