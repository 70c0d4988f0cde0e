package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// explain wraps what the cluster or the network said with what was being done,
// on what, by whom, and what to do next; and gives it a class.
func (c *Connection) explain(doing string, err error) error {
	if err == nil || flow.ClassOf(err) != flow.ClassUnknown {
		return err
	}
	hint, class := c.diagnose(err)
	if hint == notKafka {
		err = errNotKafka
	}
	out := fmt.Errorf("kafka: %s (brokers %s): %w", doing, c.addresses(), err)
	if hint != "" {
		out = fmt.Errorf("kafka: %s (brokers %s): %w; %s", doing, c.addresses(), err, hint)
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

// What takes the place of kgo's words about the size of an answer.
var errNotKafka = errors.New("what answers there is not a Kafka broker")

const notKafka = "check the host and the port in brokers; if the listener wants TLS, set tls"

func (c *Connection) diagnose(err error) (hint string, class flow.Class) {
	if hint, ok := c.diagnoseTLS(err); ok {
		return hint, flow.ClassFatal
	}
	if hint, ok := c.diagnoseRights(err); ok {
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
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time: check that the brokers run and can be reached from here", flow.ClassTransient
	case errors.Is(err, context.Canceled), errors.As(err, &op), kerr.IsRetriable(err):
		return "", flow.ClassTransient
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

func (c *Connection) diagnoseRights(err error) (string, bool) {
	who := c.principal()
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return who + " was refused: check sasl.username, the password and sasl.mechanism", true
	case errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		mechanism := "none"
		if c.SASL != nil {
			mechanism = c.SASL.Mechanism
		}
		return "the listener does not accept SASL mechanism " + mechanism + ": set sasl.mechanism to one that it offers, or use another port", true
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return who + " may not do this: grant it Read and Describe on the topic", true
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return who + " may not do this: grant it Read on the group", true
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return who + " may not do this: grant it the right on the cluster", true
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		return who + " may not do this: grant it IdempotentWrite on the cluster", true
	}
	return "", false
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
