package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// otlpClient sends spans over OTLP/HTTP, as https://opentelemetry.io/docs/specs/otlp/#otlphttp
// says. OpenTelemetry's own client for that links all of gRPC, a quarter of the binary.
type otlpClient struct {
	url     *url.URL
	headers http.Header
	gzip    bool
	timeout time.Duration // of one attempt
	http    *http.Client

	// stopped ends when the client is stopped, and what it is sending with it.
	stopped context.Context //nolint:containedctx // the client's life, not a call's
	stop    context.CancelFunc
}

var _ otlptrace.Client = (*otlpClient)(nil)

const (
	defaultCollector = "http://localhost:4318"
	tracesPath       = "/v1/traces"
	defaultTimeout   = 10 * time.Second
	// Waits between attempts: the first, the longest, and the shortest that a collector may ask for.
	firstWait, longestWait, shortestWait = time.Second, 10 * time.Second, 50 * time.Millisecond
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
)

// newOTLPClient makes the client that the environment describes.
func newOTLPClient() (*otlpClient, error) {
	c := &otlpClient{timeout: defaultTimeout, headers: http.Header{"Content-Type": {"application/x-protobuf"}}}
	var err error
	if c.url, err = collectorURL(); err != nil {
		return nil, err
	}
	switch name, v := otlpVariable("COMPRESSION"); v {
	case "", "none":
	case "gzip":
		c.gzip = true
		c.headers.Set("Content-Encoding", "gzip")
	default:
		return nil, fmt.Errorf("%s=%s is no compression; want gzip or none", name, v)
	}
	if name, v := otlpVariable("TIMEOUT"); v != "" {
		ms, err := strconv.ParseUint(v, 10, 31)
		if err != nil || ms == 0 {
			return nil, fmt.Errorf("%s=%s is no time; want milliseconds, like 10000", name, v)
		}
		c.timeout = time.Duration(ms) * time.Millisecond
	}
	if name, v := otlpVariable("HEADERS"); v != "" {
		for pair := range strings.SplitSeq(v, ",") {
			key, value, found := strings.Cut(pair, "=")
			value, err := url.PathUnescape(strings.TrimSpace(value))
			if key = strings.TrimSpace(key); !found || key == "" || err != nil {
				return nil, fmt.Errorf("%s: want key=value, with commas between and values percent-encoded", name) // not the value: it may be a secret
			}
			c.headers.Set(key, value)
		}
	}
	transport, err := collectorTransport()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: transport}
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// otlpVariable is a setting of the exporter: that of traces, else that of all signals.
func otlpVariable(what string) (name, value string) {
	return firstSet([]string{"OTEL_EXPORTER_OTLP_TRACES_" + what, "OTEL_EXPORTER_OTLP_" + what})
}

// collectorURL is where spans are sent. The endpoint of all signals is what the path is added to,
// that of traces is used as it is.
func collectorURL() (*url.URL, error) {
	name, endpoint := otlpVariable("ENDPOINT")
	if endpoint == "" {
		endpoint = defaultCollector
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		// Not the value: it may hold a password.
		return nil, fmt.Errorf("%s is no URL of a collector; want one like http://127.0.0.1:4318", name)
	}
	if !strings.Contains(name, "_TRACES_") {
		u = u.JoinPath(tracesPath)
	}
	return u, nil
}

// collectorTransport is http.DefaultTransport with the certificates that are asked for.
func collectorTransport() (*http.Transport, error) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		base = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	t := base.Clone()
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if name, path := otlpVariable("CERTIFICATE"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s holds no certificate in PEM form", name, path)
		}
	}
	name, cert := otlpVariable("CLIENT_CERTIFICATE")
	_, key := otlpVariable("CLIENT_KEY")
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and its key: %w", name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	t.TLSClientConfig = config
	return t, nil
}

// Start implements otlptrace.Client.
func (c *otlpClient) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *otlpClient) Stop(context.Context) error {
	c.stop()
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. It tries until ctx ends what may pass later.
func (c *otlpClient) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)() //nolint:contextcheck // ends with the client, too
	// On the wire this is an ExportTraceServiceRequest.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err == nil && c.gzip {
		body, err = compress(body)
	}
	if err != nil {
		return fmt.Errorf("encoding spans: %w", err)
	}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		after, again, err := c.post(ctx, body)
		if err == nil || !again {
			return err
		}
		if after < 0 {
			after = wait/2 + rand.N(wait/2) //nolint:gosec // spreads the attempts of many processes
		}
		select {
		case <-time.After(max(after, shortestWait)):
		case <-ctx.Done():
			return err
		}
	}
}

func compress(body []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(body)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// post sends body once. again says that it may pass later, after the time that the collector has
// named; -1 if it has not.
func (c *otlpClient) post(ctx context.Context, body []byte) (after time.Duration, again bool, err error) {
	attempt, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(attempt, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return -1, false, err
	}
	req.Header = c.headers.Clone()
	resp, err := c.http.Do(req)
	if err != nil {
		return -1, ctx.Err() == nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return -1, ctx.Err() == nil, fmt.Errorf("reading the answer of %s: %w", c.url.Redacted(), err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return -1, false, refusedSpans(answer)
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
	}
	after = -1
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		after = time.Duration(seconds) * time.Second
	}
	text := printable(answer[:min(len(answer), 300)])
	return after, again, fmt.Errorf("%s answers %s: %s", c.url.Redacted(), resp.Status, text)
}

// printable is text as it is, and the rest (a collector's errors may be Protobuf) without what a terminal must
// not see.
func printable(b []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "")))
}

// refusedSpans reads an ExportTraceServiceResponse: a collector may take some spans and not others.
func refusedSpans(answer []byte) error {
	var refused uint64
	var why string
	if partial, ok := field(answer, 1, protowire.ConsumeBytes); ok {
		refused, _ = field(partial, 1, protowire.ConsumeVarint)
		text, _ := field(partial, 2, protowire.ConsumeBytes)
		why = printable(text)
	}
	if refused == 0 && why == "" {
		return nil
	}
	return fmt.Errorf("the collector has refused %d spans: %s", refused, why)
}

// field finds a field of a Protobuf message; an answer that is none has no fields.
func field[T any](message []byte, number protowire.Number, consume func([]byte) (T, int)) (value T, found bool) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return value, false
		}
		message = message[size:]
		if n == number {
			value, size = consume(message)
			return value, size >= 0
		}
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			return value, false
		}
		message = message[size:]
	}
	return value, false
}
