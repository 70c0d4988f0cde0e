package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The users of a secure node. Admin may do everything; App, and the client
// certificate, may do everything with topics, groups and transactional ids
// whose name begins with AllowedPrefix, and nothing else.
const (
	AdminUser     = "admin"
	AdminPassword = "admin-secret"
	AppUser       = "app"
	AppPassword   = "app-secret"
	AllowedPrefix = "app."
)

// ReauthEvery is how long a login by OAUTHBEARER or SCRAM-SHA-256 holds.
const ReauthEvery = 3 * time.Second

// NewSecureKafka starts a node with a SASL_SSL listener (SCRAM-SHA-512,
// SCRAM-SHA-256, PLAIN, OAUTHBEARER), a listener for client certificates, and
// ACLs that deny by default. OAUTHBEARER takes unsecured tokens: anybody is who
// the token says. Who came by OAUTHBEARER or SCRAM-SHA-256 must log in again
// every ReauthEvery (KIP-368).
func NewSecureKafka(ctx context.Context, dir, libs string, certs *Certs) (*Kafka, error) {
	k, err := newKafka(ctx, dir, libs, kafkaOptions{heap: "384m", secure: certs, clientOpts: (*Kafka).adminOpts})
	if err != nil {
		return nil, err
	}
	if err := k.createACLs(ctx); err != nil {
		k.Kill()
		return nil, err
	}
	return k, nil
}

func (k *Kafka) secureSettings() []string {
	c := k.opts.secure
	reauth := func(mechanism string) string {
		return "listener.name.sasl_ssl." + mechanism + ".connections.max.reauth.ms=" + strconv.FormatInt(ReauthEvery.Milliseconds(), 10)
	}
	login := func(mechanism, module, extra string) string {
		return "listener.name.sasl_ssl." + mechanism + ".sasl.jaas.config=" + module +
			` required username="` + AdminUser + `" password="` + AdminPassword + `"` + extra + ";"
	}
	const scramModule = "org.apache.kafka.common.security.scram.ScramLoginModule"
	sasl, mtls := addr(k.ports.client), addr(k.ports.mtls)
	return []string{
		"listeners=SASL_SSL://" + sasl + ",MTLS://" + mtls + ",CONTROLLER://" + addr(k.ports.controller),
		"advertised.listeners=SASL_SSL://" + sasl + ",MTLS://" + mtls,
		"inter.broker.listener.name=SASL_SSL",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,MTLS:SSL",
		"sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER",
		"sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512",
		login("scram-sha-512", scramModule, ""),
		login("scram-sha-256", scramModule, ""),
		login("plain", "org.apache.kafka.common.security.plain.PlainLoginModule",
			` user_`+AdminUser+`="`+AdminPassword+`" user_`+AppUser+`="`+AppPassword+`"`),
		"listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
		reauth("oauthbearer"), reauth("scram-sha-256"),
		"listener.name.mtls.ssl.client.auth=required",
		"ssl.keystore.type=PEM",
		"ssl.keystore.location=" + c.serverBundle,
		"ssl.truststore.type=PEM",
		"ssl.truststore.location=" + c.CAFile,
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found=false",
		// The controller's listener is plain text: the node itself is anonymous there.
		"super.users=User:" + AdminUser + ";User:ANONYMOUS",
	}
}

func scramArgs() []string {
	var args []string
	for user, password := range map[string]string{AdminUser: AdminPassword, AppUser: AppPassword} {
		for _, m := range []string{"SCRAM-SHA-512", "SCRAM-SHA-256"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", m, user, password))
		}
	}
	return args
}

// MTLSAddr is host:port of the listener for client certificates.
func (k *Kafka) MTLSAddr() string { return addr(k.ports.mtls) }

func (k *Kafka) adminOpts() ([]kgo.Opt, error) {
	pem, err := os.ReadFile(k.opts.secure.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + filepath.Base(k.opts.secure.CAFile))
	}
	return []kgo.Opt{
		kgo.SeedBrokers(k.Addr()),
		kgo.DialTLSConfig(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}),
		kgo.SASL(scram.Auth{User: AdminUser, Pass: AdminPassword}.AsSha512Mechanism()),
	}, nil
}

func (k *Kafka) createACLs(ctx context.Context) error {
	opts, err := k.adminOpts()
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	acls := kadm.NewACLs().
		Allow("User:"+AppUser, "User:CN="+k.opts.secure.clientCN).AllowHosts("*").
		Topics(AllowedPrefix).Groups(AllowedPrefix).TransactionalIDs(AllowedPrefix).
		Operations(kadm.OpAll).ResourcePatternType(kadm.ACLPatternPrefixed)
	results, err := kadm.NewClient(cl).CreateACLs(ctx, acls)
	if err != nil {
		return fmt.Errorf("create ACLs: %w", err)
	}
	for _, r := range results {
		if r.Err != nil {
			return fmt.Errorf("create the ACL of %s on %s: %w", r.Principal, r.Name, r.Err)
		}
	}
	return nil
}
