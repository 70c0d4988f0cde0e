package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"time"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// Flow is a flow file that was found right.
type Flow struct {
	Name        string         `yaml:"flow" required:"true" doc:"Name of the flow: of its checkpoint, its metrics and its logs. Letters, digits, dots, dashes and underscores; at most 100."`
	Source      connect.Choice `yaml:"source" role:"source" required:"true" doc:"Where records come from."`
	Routes      []Route        `yaml:"routes" keyed:"Name" doc:"Many topics into many tables: each route has topics, a decoder and a table of its own, under a name of your choice. A topic takes the first route that matches. With routes, the file has no decode section, and the sink section no fields that the routes have."`
	Decode      connect.Choice `yaml:"decode" role:"decode" doc:"How the bytes of a record become typed columns. Required by sinks that write columns."`
	Sink        connect.Choice `yaml:"sink" role:"sink" required:"true" doc:"Where rows go."`
	DeadLetters connect.Choice `yaml:"dead_letters" role:"dead_letters" doc:"Where records go that cannot be decoded or written. Default: a table beside the data, where the sink keeps one."`

	Batch        Batch         `yaml:"batch" doc:"When a lane stops collecting and writes: whichever limit is reached first."`
	Lanes        int           `yaml:"lanes" doc:"Number of lanes. Default: the smaller of the number of partitions and of CPUs, and never more than the sink allows. At most 1024."`
	Buffer       connect.Bytes `yaml:"buffer" default:"32MiB" doc:"Bytes of records held in memory outside the source's own buffers, all lanes together. At least 64KiB."`
	Retry        Retry         `yaml:"retry" doc:"How failed writes are tried again: waits grow exponentially, with full jitter."`
	Shutdown     Shutdown      `yaml:"shutdown" doc:"What happens at the end."`
	PositionLost string        `yaml:"position_lost" default:"stop" enum:"stop,wait" doc:"What to do when the log no longer holds the next record to read (retention removed it, the topic was made anew): stop the flow, or wait: the flow says once what is wrong and keeps it on /readyz, and its other partitions go on. It is never skipped over."`
	Admin        Admin         `yaml:"admin" doc:"Metrics, health and the admin API over HTTP. Where a process runs several flows, the admin sections that there are must be equal."`

	// Warnings are findings that do not stop the flow.
	Warnings Problems `yaml:"-"`

	// origin knows where the fields were written; nil for a flow that was not read from a file.
	origin *walker
}

// Batch bounds a batch.
type Batch struct {
	Records  int           `yaml:"records" default:"20000" doc:"Most records in a batch. With adaptive it is where that begins: from the smaller of it and 500 up to 10 times it."`
	Bytes    connect.Bytes `yaml:"bytes" default:"16MiB" doc:"Most bytes in a batch: keys, values, headers and overhead."`
	Wait     time.Duration `yaml:"wait" default:"5ms" doc:"How long the first record of a batch waits for more while the writer is idle; up to 20 times as long while the flow lags."`
	Timeout  time.Duration `yaml:"timeout" default:"30s" doc:"Longest time for one attempt to write a batch. A transactional sink may bound it further: with the Kafka sink an attempt must end within its transaction_timeout."`
	Adaptive bool          `yaml:"adaptive" doc:"Let records, wait and what a source fetches at a time follow what is measured (cost of a write, lag, fetch rate), instead of keeping them fixed: up to 10 times as many records in a batch, and at most wait."`
}

// Retry bounds the waits between attempts.
type Retry struct {
	Initial         time.Duration `yaml:"initial" default:"100ms" doc:"Upper bound of the first wait."`
	Max             time.Duration `yaml:"max" default:"30s" doc:"Upper bound of any wait; and 1 s while the target cannot be reached at all."`
	UnknownAttempts int           `yaml:"unknown_attempts" default:"10" doc:"How often an error of unknown kind is retried before the flow stops: 10 retries are 11 attempts in all. Errors known to pass (the database is away) are retried without end."`
}

// Validate refuses waits that shrink.
func (r *Retry) Validate() error {
	if r.Initial > r.Max {
		return connect.Errorf("initial", "the first wait (%s) is longer than the longest (%s)", r.Initial, r.Max)
	}
	return nil
}

// Shutdown says what happens at the end.
type Shutdown struct {
	Grace time.Duration `yaml:"grace" default:"20s" doc:"How long a flow that is told to stop goes on to write what its lanes hold. A batch that fails meanwhile is not tried again: its records are read again at the next start."`
}

// Admin is the admin server: metrics, health and the API that commands use.
type Admin struct {
	Address     string         `yaml:"address" doc:"host:port of the admin server (/metrics, /healthz, /readyz and the API), like 0.0.0.0:9464; off for none. Default: 127.0.0.1:9464 if it is free."`
	AllowRemote bool           `yaml:"allow_remote" doc:"Serve /metrics, /healthz and /readyz, and nothing else, without login on an address that other machines can reach. The pages are read-only and hold no secrets."`
	Token       connect.Secret `yaml:"token" doc:"Who asks must show this bearer token: for everything but /healthz and /readyz. At least 16 characters."`
	TokenFile   string         `yaml:"token_file" doc:"File that holds the token; read again when it changes. It comes before token."`
	TLS         AdminTLS       `yaml:"tls" doc:"HTTPS for the admin server."`
}

// AdminTLS is the admin server's side of TLS.
type AdminTLS struct {
	Cert     string `yaml:"cert" doc:"File with the certificate (PEM), and those that signed it. Read again when it changes."`
	Key      string `yaml:"key" doc:"File with the certificate's key (PEM)."`
	ClientCA string `yaml:"client_ca" doc:"File with the certificates (PEM) that sign those of clients: a client without one is refused (mTLS)."`
}

const (
	// DefaultAdminAddress is where the admin server listens unless it is told otherwise.
	DefaultAdminAddress = "127.0.0.1:9464"
	// AdminOff is the address of no admin server.
	AdminOff = "off"
	// minToken is what cannot be guessed over a network.
	minToken = 16
)

// Validate refuses what cannot be served, and an address that others can reach and that nothing
// protects.
func (a *Admin) Validate() error {
	var errs []error
	refuse := func(wrong bool, path, format string, args ...any) {
		if wrong {
			errs = append(errs, connect.Errorf(path, format, args...))
		}
	}
	refuse(a.Token != "" && len(a.Token) < minToken, "token", "a token of %d characters can be guessed; want at least %d, like the output of: openssl rand -hex 24", len(a.Token), minToken)
	refuse((a.TLS.Cert == "") != (a.TLS.Key == ""), "tls", "cert and key belong together; give both")
	refuse(a.TLS.ClientCA != "" && a.TLS.Cert == "", "tls.client_ca", "client certificates need TLS; give tls.cert and tls.key as well")
	if a.Address != "" && a.Address != AdminOff {
		if remote, err := remoteAddress(a.Address); err != nil {
			errs = append(errs, connect.Errorf("address", "%w", err))
		} else {
			refuse(remote && a.Token == "" && a.TokenFile == "" && a.TLS.ClientCA == "" && !a.AllowRemote, "address",
				"%q can be reached from other machines; use a loopback address like %s, or set admin.token_file or admin.tls.client_ca, "+
					"or admin.allow_remote: true for metrics and health alone", a.Address, DefaultAdminAddress)
		}
	}
	return errors.Join(errs...)
}

// remoteAddress says whether other machines can reach the address. The error is about one
// that is not host:port.
func remoteAddress(address string) (bool, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("%q is not an address; want host:port, like %s, or %s", address, DefaultAdminAddress, AdminOff)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("%q is not an address: the port is a number of 0 to 65535", address)
	}
	if host == "localhost" {
		return false, nil
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.IsLoopback(), nil
}

// Bounds of the numbers of a flow file.
const (
	// maxLanes is far beyond the CPUs and connections that lanes have use for.
	maxLanes = 1024
	// minBuffer is enough for a flow to move at all.
	minBuffer connect.Bytes = 64 << 10
)

// Validate refuses numbers that cannot be.
func (f *Flow) Validate() error {
	var errs []error
	refuse := func(wrong bool, path, format string, args ...any) {
		if wrong {
			errs = append(errs, connect.Errorf(path, format, args...))
		}
	}
	refuse(!validName(f.Name), "flow", "%q cannot be the name of a flow; want 1 to 100 letters, digits, dots, dashes or underscores", f.Name)
	refuse(f.Lanes < 0 || f.Lanes > maxLanes, "lanes", "%d is not a number of lanes; want 1 to %d", f.Lanes, maxLanes)
	refuse(f.Batch.Records < 0, "batch.records", "%d is not a number of records", f.Batch.Records)
	refuse(f.Retry.UnknownAttempts < 0, "retry.unknown_attempts", "%d is not a number of attempts", f.Retry.UnknownAttempts)
	refuse(f.Buffer < minBuffer, "buffer", "%s is too small; want at least %s", f.Buffer, minBuffer)
	refuse(f.Buffer >= minBuffer && f.Batch.Bytes > f.Buffer, "batch.bytes",
		"a batch of %s does not fit in a buffer of %s; make buffer larger or batch.bytes smaller", f.Batch.Bytes, f.Buffer)
	return errors.Join(errs...)
}

func validName(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 100
}

// Build makes the connectors and the engine's configuration of them. It
// connects to nothing.
func (f *Flow) Build(logger *slog.Logger, observer flow.Observer) (flow.Config, error) {
	cfg := flow.Config{
		Name:   f.Name,
		Lanes:  f.Lanes,
		Buffer: int64(f.Buffer),
		Batch: flow.BatchLimits{
			Records: f.Batch.Records, Bytes: int64(f.Batch.Bytes), Wait: f.Batch.Wait, Timeout: f.Batch.Timeout, Adaptive: f.Batch.Adaptive,
		},
		Retry: flow.Retry{
			Initial: f.Retry.Initial, Max: f.Retry.Max, UnknownAttempts: f.Retry.UnknownAttempts,
		},
		ShutdownGrace:      f.Shutdown.Grace,
		WaitOnLostPosition: f.PositionLost == "wait",
		Logger:             logger,
		Observer:           observer,
	}
	if logger != nil {
		for _, c := range []any{f.Source.Config, f.Sink.Config, f.DeadLetters.Config} {
			setLogger(c, logger.With(slog.String("flow", f.Name)))
		}
	}
	var err error
	if cfg.Source, err = f.Source.Connector.NewSource(f.Source.Config); err != nil {
		return flow.Config{}, fmt.Errorf("flow %s: %w", f.Name, err)
	}
	if cfg.Sink, err = f.Sink.Connector.NewSink(f.Sink.Config); err != nil {
		return flow.Config{}, fmt.Errorf("flow %s: %w", f.Name, err)
	}
	if d := f.DeadLetters; d.Connector != nil {
		if cfg.DeadLetters, err = d.Connector.NewDeadLetters(d.Config); err != nil {
			return flow.Config{}, fmt.Errorf("flow %s: %w", f.Name, err)
		}
	}
	switch {
	case len(f.Routes) > 0:
		for i := range f.Routes {
			r := &f.Routes[i]
			cfg.Routes = append(cfg.Routes, flow.Route{Name: r.Name, Match: r.match(), Transforms: transforms(r.Decode)})
		}
	default:
		cfg.Transforms = transforms(f.Decode)
	}
	return cfg, nil
}

// setLogger gives a connector the logger that says of which flow a line is: its
// configuration may have a field of this name and type.
func setLogger(cfg any, logger *slog.Logger) {
	v := reflect.Indirect(reflect.ValueOf(cfg))
	if v.Kind() != reflect.Struct {
		return
	}
	if field := v.FieldByName("Logger"); field.CanSet() && field.Type() == reflect.TypeFor[*slog.Logger]() {
		field.Set(reflect.ValueOf(logger))
	}
}

// transforms makes the decoder of each lane; nil where there is none.
func transforms(decode connect.Choice) func(int) ([]flow.Transform, error) {
	if decode.Connector == nil {
		return nil
	}
	return func(int) ([]flow.Transform, error) {
		d, err := decode.Connector.NewDecoder(decode.Config)
		return []flow.Transform{d}, err
	}
}

// Writing is how the sink writes rows.
type Writing struct {
	// Route is the name of the route; empty for a flow without routes.
	Route string
	// Table is where the rows go, Mode append, ignore or upsert, and Key the
	// columns by which a row is recognised; empty where the sink has no such field.
	Table, Mode string
	Key         []string
}

// Writings are those of the routes; one for a flow without routes.
func (f *Flow) Writings() []Writing {
	c := f.Sink.Connector
	if len(f.Routes) == 0 {
		return []Writing{writing("", c.Spec.Type, f.Sink.Config)}
	}
	out := make([]Writing, len(f.Routes))
	for i := range f.Routes {
		out[i] = writing(f.Routes[i].Name, c.Route.Type, f.Routes[i].Sink.Config)
	}
	return out
}

// writing reads the fields by name: table, and those that connect.CheckKey goes by.
func writing(route string, t *connect.Type, cfg any) Writing {
	v := reflect.ValueOf(cfg).Elem()
	return Writing{
		Route: route, Table: fieldNamed[string](t, v, "table"), Mode: fieldNamed[string](t, v, "mode"), Key: fieldNamed[[]string](t, v, "key"),
	}
}

// fieldNamed is the value of a field that a connector may have; zero if it has none of that type.
func fieldNamed[T any](t *connect.Type, v reflect.Value, name string) (value T) {
	if f := t.Field(name); f != nil {
		value, _ = reflect.TypeAssert[T](v.FieldByIndex(f.Index))
	}
	return value
}
