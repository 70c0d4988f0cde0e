package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func TestServerAddresses(t *testing.T) {
	m := NewMetrics("f", "v1")
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:9464": true, "[::1]:9464": true, "127.3.2.1:80": true,
		":9464": false, "0.0.0.0:9464": false, "[::]:9464": false, "10.0.0.1:9464": false, "example.com:80": false, "localhost": false, "": false,
		"127.0.0.1:70000": false, "127.0.0.1:": false, "127.0.0.1:http": false, "127.0.0.1:-1": false,
	} {
		if _, err := NewServer(address, false, m, slog.Default()); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := NewServer("0.0.0.0:9464", true, m, slog.Default()); err != nil {
		t.Error(err)
	}
}

func TestServer(t *testing.T) {
	m := NewMetrics("f", "v1")
	s, err := NewServer("127.0.0.1:0", false, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.Address() != "" {
		t.Error("an address before Start")
	}
	for range 2 { // starting twice is legal
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	check := func(method, path string, code int, part string) {
		t.Helper()
		if c, body := ask(method, path); c != code || !strings.Contains(body, part) {
			t.Errorf("%s %s: %d %.200q, want %d with %q", method, path, c, body, code, part)
		}
	}
	check("GET", "/healthz", 200, "ok")
	check("GET", "/readyz", 503, "connecting")
	m.Watch(func() flow.Status {
		st := exampleStatus()
		st.LastCommit = time.Now()
		return st
	})
	check("GET", "/readyz", 200, "ok")
	check("GET", "/metrics", 200, `penstock_rows_total{flow="f"} 8`)
	m.Watch(func() flow.Status { return flow.Status{State: flow.StateStopped, Err: errors.New("table away")} })
	check("GET", "/healthz", 503, "table away")
	check("POST", "/healthz", 405, "")
	check("GET", "/", 404, "")
	client.CloseIdleConnections()
	for range 2 { // and stopping twice
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}

	never, err := NewServer("127.0.0.1:0", false, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := never.Stop(context.Background()); err != nil {
		t.Errorf("stopping before starting: %v", err)
	}
}
