package flow

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Config says what a flow is made of. The zero value of a field is its default.
type Config struct {
	// Name identifies the flow: its checkpoint, its metrics, its logs. Letters,
	// digits, dots, dashes and underscores; at most 100. Required.
	Name string

	// Source and Sink are required. Both belong to the flow from New on: Run
	// closes them.
	Source Source
	Sink   Sink

	// Transforms makes the transforms of one lane, in order. Nil: none.
	Transforms func(lane int) ([]Transform, error)

	// Routes divide the topics: each route has transforms of its own, and every
	// batch holds records of one route (Batch.Route), for a sink that is a Router.
	// A topic takes the first route that matches; one that no route takes stops the
	// flow. Nil: all topics go through Transforms.
	Routes []Route

	// Assigned and Revoked, if not nil, are told of partitions that this process
	// owns from now on, before the first record of them is read, and that it
	// has given up, after the last batch of them was written (or with lost, as
	// soon as it is known). A rebalance waits for them to return.
	Assigned func(ctx context.Context, positions []Position)
	Revoked  func(ctx context.Context, partitions []Partition, lost bool)

	// DeadLetters takes the records that cannot be processed. Nil: the sink
	// stores them (DeadLetterStore); with a sink that does not, the first such
	// record stops the flow.
	DeadLetters DeadLetterQueue

	// Lanes is the number of lanes; default: the smaller of the number of
	// partitions and GOMAXPROCS, and never more than the sink allows.
	Lanes int

	// Batch says when a lane stops collecting and writes.
	Batch BatchLimits

	// Buffer bounds the bytes of records that the flow holds outside the
	// source's own buffers, all lanes together; default 32 MiB. Soft by what one Read of
	// the source delivers.
	Buffer int64

	// Retry says how failed writes are tried again.
	Retry Retry

	// ShutdownGrace bounds how long Run goes on after its context has ended to
	// write what the lanes hold; default 20 s. A batch that fails meanwhile is not
	// tried again.
	ShutdownGrace time.Duration

	// WaitOnLostPosition makes a flow whose position is not in the log any more
	// wait, repeating what is wrong, instead of stopping.
	WaitOnLostPosition bool

	// Logger receives what a person should know; default slog.Default().
	Logger *slog.Logger

	// Observer receives what metrics are made of; default none.
	Observer Observer
}

// Route is what the topics that it matches go through.
type Route struct {
	// Name is for messages: unique, and not empty.
	Name string
	// Match says whether the topic takes this route.
	Match func(topic string) bool
	// Transforms makes the transforms of one lane, in order. Nil: none.
	Transforms func(lane int) ([]Transform, error)
}

// BatchLimits bound a batch: whichever is reached first.
type BatchLimits struct {
	Records int   // default 20,000
	Bytes   int64 // keys, values, headers and overhead; default 16 MiB
	// Wait is how long the first record of a batch that is not full waits for
	// more while the writer is idle; default 5 ms. While the flow lags, a lane
	// waits up to 20 times as long for a full batch.
	Wait time.Duration
	// Timeout bounds one attempt to write a batch; default 30 s.
	Timeout time.Duration
	// Adaptive makes Records, Wait and what the source fetches at a time follow
	// the measured cost of a write, lag and fetch rate. A flow that keeps up waits as little
	// as the target allows, at most Wait; one that lags writes as many records
	// at once as pay, from 500 to 10 × Records.
	Adaptive bool
}

// Retry bounds the waits between attempts: exponential, with full jitter.
type Retry struct {
	Initial time.Duration // upper bound of the first wait; default 100 ms
	Max     time.Duration // upper bound of any wait; default 30 s, and 1 s while the target cannot be reached at all
	// UnknownAttempts is how often an error without a class is retried before
	// the flow stops; default 10. Transient errors are retried without end.
	UnknownAttempts int
}

func (c *Config) setDefaults() {
	def(&c.Batch.Records, 20_000)
	def(&c.Batch.Bytes, 16<<20)
	def(&c.Batch.Wait, 5*time.Millisecond)
	def(&c.Batch.Timeout, 30*time.Second)
	def(&c.Buffer, 32<<20)
	def(&c.Retry.Initial, 100*time.Millisecond)
	def(&c.Retry.Max, 30*time.Second)
	def(&c.Retry.UnknownAttempts, 10)
	def(&c.ShutdownGrace, 20*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate refuses what cannot work, with a sentence.
func (c *Config) Validate() error {
	switch {
	case !validName(c.Name):
		return fmt.Errorf("flow name %q: want 1 to 100 letters, digits, dots, dashes or underscores", c.Name)
	case c.Source == nil:
		return fmt.Errorf("flow %s has no source", c.Name)
	case c.Sink == nil:
		return fmt.Errorf("flow %s has no sink", c.Name)
	case len(c.Routes) > 0 && c.Transforms != nil:
		return fmt.Errorf("flow %s has transforms beside its routes: give every route its own", c.Name)
	case len(c.Routes) != c.sinkRoutes():
		return fmt.Errorf("flow %s has %d routes and its sink is configured for %d", c.Name, len(c.Routes), c.sinkRoutes())
	case c.Lanes < 0, c.Batch.Records < 0, c.Batch.Bytes < 0, c.Buffer < 0, c.Batch.Wait < 0, c.Batch.Timeout < 0,
		c.Retry.Initial < 0, c.Retry.Max < 0, c.Retry.UnknownAttempts < 0, c.ShutdownGrace < 0:
		return fmt.Errorf("flow %s: lanes, limits and times must not be negative", c.Name)
	case c.Retry.Max > 0 && c.Retry.Initial > c.Retry.Max:
		return fmt.Errorf("flow %s: the first retry wait (%s) is longer than the longest (%s)", c.Name, c.Retry.Initial, c.Retry.Max)
	}
	return nil
}

func (c *Config) sinkRoutes() int {
	if r, ok := c.Sink.(Router); ok {
		return r.Routes()
	}
	return 0
}

// routeOf returns the index of the route that the topic takes.
func (c *Config) routeOf(topic string) (int, error) {
	if len(c.Routes) == 0 {
		return 0, nil
	}
	for i := range c.Routes {
		if c.Routes[i].Match(topic) {
			return i, nil
		}
	}
	return 0, Fatal(fmt.Errorf("no route takes topic %s: add one, or do not read the topic", topic))
}

func validName(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
		default:
			return false
		}
	}
	return len(s) > 0 && len(s) <= 100
}
