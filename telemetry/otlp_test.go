package telemetry

import (
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

var oneSpan = []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "s"}}}}}}

// upload sends a span by what the environment describes.
func upload(t *testing.T, vars ...string) error {
	t.Helper()
	otelEnv(t, vars...)
	c, err := newOTLPClient()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop(t.Context())
	return c.UploadTraces(t.Context(), oneSpan)
}

// A collector with a certificate of its own, which asks for a key and takes gzip only.
func TestUploadOverTLSWithHeadersAndCompression(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(z)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil || len(m.GetResourceSpans()) != 1 || m.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetName() != "s" {
			t.Errorf("%v: %v", err, &m)
		}
		if r.Header.Get("Api-Key") != "a, b" || r.Header.Get("Team") != "blue" || r.Header.Get("Content-Encoding") != "gzip" || r.URL.Path != "/base/v1/traces" {
			t.Errorf("%s %v", r.URL.Path, r.Header)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	err := upload(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+s.URL+"/base", "OTEL_EXPORTER_OTLP_CERTIFICATE="+ca,
		"OTEL_EXPORTER_OTLP_HEADERS=api-key=a%2C%20b, team=red", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=api-key=a%2C%20b,team=blue", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")
	if err != nil {
		t.Error(err)
	}
}

func TestUploadGoesOnWhereItMayPassLater(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		var posts atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if posts.Add(1) < 3 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
			}
		}))
		otelEnv(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+s.URL)
		if err := upload(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+s.URL); err != nil || posts.Load() != 3 {
			t.Errorf("%d: %v after %d posts", status, err, posts.Load())
		}
		s.Close()
	}
}

func TestUploadSaysWhatTheCollectorSays(t *testing.T) {
	partial, err := proto.Marshal(&collector.ExportTraceServiceResponse{
		PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: 7, ErrorMessage: "too old"},
	})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := proto.Marshal(&collector.ExportTraceServiceResponse{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status int
		body   string
		want   string
	}{
		{200, "", ""},
		{200, string(taken), ""},
		{200, "<html>", ""},
		{200, string(partial), "the collector has refused 7 spans: too old"},
		{401, "who\x1b[31m are you", "answers 401 Unauthorized: who [31m are you"},
		{400, strings.Repeat("x", 1<<20), "answers 400 Bad Request: xxx"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		err := upload(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://me:secret@"+strings.TrimPrefix(s.URL, "http://"))
		if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) || strings.Contains(got, "secret") || len(got) > 500 {
			t.Errorf("%d %.20q: %v, want %q", tt.status, tt.body, err, tt.want)
		}
		s.Close()
	}
}

func TestStopEndsAnUploadThatHangs(t *testing.T) {
	over, asked := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-over
	}))
	defer s.Close()
	defer close(over)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+s.URL)
	c, err := newOTLPClient()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.UploadTraces(t.Context(), oneSpan) }()
	<-asked
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error, though nothing was taken")
		}
	case <-time.After(10 * time.Second):
		t.Error("the upload goes on after Stop")
	}
}

func FuzzRefusedSpans(f *testing.F) {
	for _, seed := range []string{"", "\x0a\x04\x08\x07\x12\x00", "\x0a\xff", "\xff\xff\xff\xff\xff\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		if err := refusedSpans(answer); err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q: %q", answer, err)
		}
	})
}
