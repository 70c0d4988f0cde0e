package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const instrumentation = "github.com/penstockdev/penstock"

// Tracing sends a span for every batch to a collector, over OTLP/HTTP.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewTracing makes what the environment asks for by OpenTelemetry's own variables; nil if it
// asks for nothing. Traces are on where OTEL_TRACES_EXPORTER is otlp, or where an endpoint is
// set and the exporter is not; OTEL_SDK_DISABLED=true ends it all. The SDK reads the other
// variables (sampler, limits, resource, queue) itself. A value that would not be honoured
// is an error. A collector that is away never holds a flow up: spans that do not
// fit into the queue are dropped. Version is Penstock's own.
func NewTracing(ctx context.Context, version string, log *slog.Logger) (*Tracing, error) {
	if wanted, err := tracesWanted(); err != nil || !wanted {
		return nil, err
	}
	client, err := newOTLPClient()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	// What comes later wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("penstock"), semconv.ServiceVersion(version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// The SDK has one handler for a process. What it says: a collector that refuses or is away.
	otel.SetErrorHandler(&complaints{log: log})
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return newTracing(p, version), nil
}

func newTracing(p *sdktrace.TracerProvider, version string) *Tracing {
	return &Tracing{provider: p, tracer: p.Tracer(instrumentation, trace.WithInstrumentationVersion(version), trace.WithSchemaURL(semconv.SchemaURL))}
}

// sayEvery bounds how often it is logged that traces cannot be sent: under load that happens several
// times a second.
const sayEvery = 30 * time.Second

// complaints logs what the SDK complains of.
type complaints struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	said   time.Time
	unsaid int
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.said.IsZero() && time.Since(c.said) < sayEvery {
		c.unsaid++
		return
	}
	c.log.Warn("traces could not be sent; the flows go on", slog.Any("error", err), slog.Int("not_logged_before", c.unsaid))
	c.said, c.unsaid = time.Now(), 0
}

// Shutdown sends what is left, until ctx ends. It may be called more than once, and on nil.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// Variables of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
const (
	envExporter  = "OTEL_TRACES_EXPORTER"
	envSampler   = "OTEL_TRACES_SAMPLER"
	envSamplerOf = "OTEL_TRACES_SAMPLER_ARG"
)

func tracesWanted() (bool, error) {
	if strings.EqualFold(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")), "true") {
		return false, nil
	}
	switch exporter := os.Getenv(envExporter); exporter {
	case "none":
		return false, nil
	case "":
		if _, endpoint := otlpVariable("ENDPOINT"); endpoint == "" {
			return false, nil
		}
	case "otlp":
	default:
		return false, fmt.Errorf("%s=%s: traces can be sent by otlp only; set it to otlp, or to none for no traces", envExporter, exporter)
	}
	if name, protocol := otlpVariable("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return false, fmt.Errorf("%s=%s: traces can be sent by http/protobuf only, which a collector takes on port 4318 (4317 is for grpc); "+
			"set it to http/protobuf, and the endpoint to that port", name, protocol)
	}
	return true, checkSampler()
}

// checkSampler refuses what the SDK would replace by its default.
func checkSampler() error {
	samplers := []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}
	sampler := strings.ToLower(strings.TrimSpace(os.Getenv(envSampler)))
	if sampler != "" && !slices.Contains(samplers, sampler) {
		return fmt.Errorf("%s=%s is no sampler; want one of %s", envSampler, sampler, strings.Join(samplers, ", "))
	}
	arg := strings.TrimSpace(os.Getenv(envSamplerOf))
	if arg == "" || !strings.HasSuffix(sampler, "traceidratio") {
		return nil
	}
	if share, err := strconv.ParseFloat(arg, 64); err != nil || share < 0 || share > 1 {
		return errors.New(envSamplerOf + "=" + arg + " is no share of the batches; want 0 to 1, like 0.1")
	}
	return nil
}

func firstSet(names []string) (name, value string) {
	for _, name := range names {
		if v := strings.TrimSpace(os.Getenv(name)); v != "" {
			return name, v
		}
	}
	return "", ""
}
