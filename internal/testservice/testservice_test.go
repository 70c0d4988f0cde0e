package testservice_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/internal/testservice"
)

func connect(t *testing.T, dbURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dbURL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func count(t *testing.T, dbURL string) (n int) {
	t.Helper()
	if err := connect(t, dbURL).QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func kafka(t *testing.T, opts ...kgo.Opt) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.RetryTimeout(20*time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func TestPostgresIsOnesOwn(t *testing.T) {
	t.Parallel()
	a, b := testservice.Postgres(t), testservice.Postgres(t)
	if a == b {
		t.Fatalf("two calls gave the same database, %s", a)
	}
	if _, err := connect(t, a).Exec(t.Context(), "CREATE TABLE t (x int)"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, testservice.PgBouncer(t, a)); n != 0 {
		t.Fatalf("%d rows through PgBouncer, want 0", n)
	}
}

func TestPostgresTLS(t *testing.T) {
	t.Parallel()
	db := testservice.PostgresTLS(t)
	if _, err := pgx.Connect(t.Context(), db.URL+"?sslmode=disable"); err == nil {
		t.Error("the server let a user in without TLS who must use it")
	}
	verified := db.URL + "?sslmode=verify-full&sslrootcert=" + url.QueryEscape(db.CAFile)
	if _, err := connect(t, verified).Exec(t.Context(), "CREATE TABLE t (x int)"); err != nil {
		t.Fatal(err)
	}
	wrong, err := url.Parse(verified)
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(wrong.User.Username(), "wrong")
	if _, err := pgx.Connect(t.Context(), wrong.String()); err == nil {
		t.Error("the server took a wrong password")
	}
	if _, err := connect(t, db.PlainURL+"?sslmode=disable").Exec(t.Context(), "CREATE TABLE u (x int)"); err != nil {
		t.Error(err)
	}
}

func TestKafka(t *testing.T) {
	t.Parallel()
	adm := kafka(t, kgo.SeedBrokers(testservice.Kafka(t)))
	if _, err := adm.CreateTopic(t.Context(), 2, 1, nil, testservice.Name(t)); err != nil {
		t.Fatal(err)
	}
}

func TestKafkaSecureAsksWhoYouAre(t *testing.T) {
	t.Parallel()
	s := testservice.KafkaSecure(t)
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	user := scram.Auth{User: s.Username, Pass: s.Password}
	overTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
	for name, opts := range map[string][]kgo.Opt{
		"scram-512": {kgo.SeedBrokers(s.SASLBroker), overTLS, kgo.SASL(user.AsSha512Mechanism())},
		"scram-256": {kgo.SeedBrokers(s.SASLBroker), overTLS, kgo.SASL(user.AsSha256Mechanism())},
		"plain":     {kgo.SeedBrokers(s.SASLBroker), overTLS, kgo.SASL(plain.Auth{User: s.Username, Pass: s.Password}.AsMechanism())},
		"mtls": {kgo.SeedBrokers(s.MTLSBroker), kgo.DialTLSConfig(&tls.Config{
			RootCAs: pool, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			adm := kafka(t, opts...)
			if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, s.Prefix+testservice.Name(t)); err != nil {
				t.Errorf("below the prefix: %v", err)
			}
			_, err := adm.CreateTopic(t.Context(), 1, 1, nil, testservice.Name(t))
			if !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("outside the prefix: %v, want %v", err, kerr.TopicAuthorizationFailed)
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		m := scram.Auth{User: s.Username, Pass: "wrong"}.AsSha512Mechanism()
		_, err := kafka(t, kgo.SeedBrokers(s.SASLBroker), overTLS, kgo.SASL(m)).ListTopics(t.Context())
		if err == nil {
			t.Error("the broker took a wrong password")
		}
	})
}

func TestPrivatePostgresSurvivesItsEnds(t *testing.T) {
	t.Parallel()
	s := testservice.StartPostgres(t)
	dbURL := s.URL()
	if _, err := connect(t, dbURL).Exec(t.Context(), "CREATE TABLE t (x int); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){s.Stop, s.StopImmediately, s.Kill} {
		end()
		if _, err := pgx.Connect(t.Context(), dbURL); err == nil {
			t.Fatal("the server still answers")
		}
		s.Start()
		if n := count(t, dbURL); n != 1 {
			t.Fatalf("%d rows after a restart, want 1", n)
		}
	}
}

func TestPrivatePostgresFailsOver(t *testing.T) {
	t.Parallel()
	primary := testservice.StartPostgres(t)
	dbURL := primary.URL()
	if _, err := connect(t, dbURL).Exec(t.Context(), "CREATE TABLE t (x int); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testservice.Proxy(t, u.Host)
	standby := primary.StartStandby()
	primary.Set("synchronous_standby_names", "standby")
	throughProxy := testservice.WithAddr(t, dbURL, proxy.Addr())
	if _, err := connect(t, throughProxy).Exec(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	standby.Promote()
	proxy.Redirect(standby.Addr())
	if _, err := connect(t, throughProxy).Exec(t.Context(), "INSERT INTO t VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, testservice.WithAddr(t, dbURL, standby.Addr())); n != 3 {
		t.Fatalf("%d rows on the standby, want 3", n)
	}
}

func TestPrivatePostgresDiskFillsUp(t *testing.T) {
	t.Parallel()
	s := testservice.StartPostgresOnDisk(t, 64)
	conn := connect(t, s.URL())
	insert := func() error {
		_, err := conn.Exec(t.Context(), "INSERT INTO t SELECT 1 FROM generate_series(1, 10000)")
		return err
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (x int)"); err != nil {
		t.Fatal(err)
	}
	if err := insert(); err != nil {
		t.Fatal(err)
	}
	s.FillDisk()
	var refused *pgconn.PgError
	if err := insert(); !errors.As(err, &refused) || refused.Code != "53100" {
		t.Fatalf("on a full disk: %v, want SQLSTATE 53100", err)
	}
	s.FreeDisk()
	if err := insert(); err != nil {
		t.Fatalf("once it is free again: %v", err)
	}
}

func TestPrivateKafkaSurvivesItsEnds(t *testing.T) {
	t.Parallel()
	b := testservice.StartKafka(t)
	name := testservice.Name(t)
	if _, err := kafka(t, kgo.SeedBrokers(b.Addr())).CreateTopic(t.Context(), 1, 1, nil, name); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){b.Kill, b.Stop} {
		end()
		b.Start()
		topics, err := kafka(t, kgo.SeedBrokers(b.Addr())).ListTopics(t.Context(), name)
		if err != nil || topics.Error() != nil {
			t.Fatalf("after a restart: %v, %v", err, topics.Error())
		}
	}
}

func TestKafkaClusterSurvivesOneOfItsNodes(t *testing.T) {
	t.Parallel()
	c := testservice.StartKafkaCluster(t, 3)
	name := testservice.Name(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.DirectAddrs(), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 3, -1, nil, name); err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Brokers[:2] {
		c.AwaitInSync()
		b.Kill()
		for i := range 3 { // whoever led it
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: name, Partition: int32(i), Value: []byte("v")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		b.Start()
	}
	c.AwaitInSync()
	brokers, err := kafka(t, kgo.SeedBrokers(strings.Split(c.Addrs(), ",")...)).ListBrokers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range brokers {
		if told := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))); told != c.Proxies[i].Addr() {
			t.Errorf("node %d is at %s, want its proxy at %s", b.NodeID, told, c.Proxies[i].Addr())
		}
	}
}

func TestProxyLosesAnswers(t *testing.T) {
	t.Parallel()
	dbURL := testservice.Postgres(t)
	if _, err := connect(t, dbURL).Exec(t.Context(), "CREATE TABLE t (x int)"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	p := testservice.Proxy(t, u.Host)
	p.LoseAnswers([]byte("commit\x00"), 1)
	insert := func() error {
		conn := connect(t, testservice.WithAddr(t, dbURL, p.Addr()))
		tx, err := conn.Begin(t.Context())
		if err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
			return err
		}
		return tx.Commit(t.Context())
	}
	if insert() == nil {
		t.Fatal("the answer to the commit arrived")
	}
	if n := count(t, dbURL); n != 1 || p.Lost() != 1 {
		t.Fatalf("%d rows, %d answers lost, want 1 and 1", n, p.Lost())
	}
	if err := insert(); err != nil {
		t.Fatalf("the answer after it: %v", err)
	}
	p.Cut()
	if _, err := pgx.Connect(t.Context(), testservice.WithAddr(t, dbURL, p.Addr())); err == nil {
		t.Fatal("a cut proxy lets through")
	}
	p.Restore()
	if err := insert(); err != nil {
		t.Fatalf("after Restore: %v", err)
	}
}

func TestProxyMakesTheNetworkBad(t *testing.T) {
	t.Parallel()
	dbURL := testservice.Postgres(t)
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	p := testservice.Proxy(t, u.Host)
	conn := connect(t, testservice.WithAddr(t, dbURL, p.Addr()))
	query := func() (took time.Duration, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		_, err = conn.Exec(ctx, "SELECT repeat('x', 30000)")
		return time.Since(began), err
	}
	if _, err := query(); err != nil {
		t.Fatal(err)
	}
	p.Slow(100*time.Millisecond, 0)
	if took, err := query(); err != nil || took < 200*time.Millisecond {
		t.Errorf("slow: an answer after %s, %v; want 100 ms each way", took, err)
	}
	p.Restore()
	p.Bandwidth(100)
	if took, err := query(); err != nil || took < 250*time.Millisecond {
		t.Errorf("100 kB/s: 30 kB after %s, %v", took, err)
	}
	p.Restore()
	if took, err := query(); err != nil || took > time.Second {
		t.Errorf("restored: an answer after %s, %v", took, err)
	}
	p.HalfOpen()
	if took, err := query(); !errors.Is(err, context.DeadlineExceeded) || took < 2*time.Second {
		t.Errorf("half-open: %v after %s, want nothing at all", err, took)
	}
	p.Restore()
	conn = connect(t, testservice.WithAddr(t, dbURL, p.Addr()))
	if _, err := query(); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	p.Silence()
	if took, err := query(); !errors.Is(err, context.DeadlineExceeded) || took < 2*time.Second {
		t.Errorf("silenced: %v after %s, want nothing at all", err, took)
	}
	conn = connect(t, testservice.WithAddr(t, dbURL, p.Addr()))
	if _, err := query(); err != nil {
		t.Errorf("a connection that came after: %v", err)
	}
	p.CloseConnections()
	if _, err := query(); err == nil {
		t.Error("the connection outlived its end")
	}
}
