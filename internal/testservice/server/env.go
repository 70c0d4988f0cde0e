package server

// The environment variables through which tests learn where the services are.
// One that is set before the services start is left alone, and its service is
// not started: that is how own servers are used.
const (
	// EnvKafka is host:port of a Kafka broker.
	EnvKafka = "PENSTOCK_TEST_KAFKA"
	// EnvKafkaSecure is a JSON object; see testservice.Secure.
	EnvKafkaSecure = "PENSTOCK_TEST_KAFKA_SECURE"
	// EnvPostgres is the URL of a PostgreSQL, as a superuser.
	EnvPostgres = "PENSTOCK_TEST_POSTGRES"
	// EnvPostgresTLS is the file of the CA that signed that server's certificate.
	EnvPostgresTLS = "PENSTOCK_TEST_POSTGRES_TLS"
	// EnvPgBouncer is host:port of a PgBouncer in front of that PostgreSQL.
	EnvPgBouncer = "PENSTOCK_TEST_PGBOUNCER"
	// EnvPromtool and EnvKubernetesValidate are paths of the programs of these names.
	EnvPromtool           = "PENSTOCK_TEST_PROMTOOL"
	EnvKubernetesValidate = "PENSTOCK_TEST_KUBERNETES_VALIDATE"
	// EnvDir is the directory below which tests start servers of their own.
	EnvDir = "PENSTOCK_TEST_DIR"
)
