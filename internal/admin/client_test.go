package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

const token = "0123456789abcdef-token"

// serve starts a server of a process without flows.
func serve(t *testing.T, c config.Admin, version string) *admin.Server {
	t.Helper()
	metrics := telemetry.NewRegistry(version)
	s, err := admin.New(admin.Config{Admin: c, Version: version}, new(supervisor.Supervisor), metrics, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // starting twice is legal
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for range 2 { // and so is stopping twice
			if err := s.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func newClient(t *testing.T, target admin.Target) *admin.Client {
	t.Helper()
	target.Version = version
	c, err := admin.NewClient(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestErrorsOfTheClientSayWhatToDo(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	host := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	locked := serve(t, config.Admin{Address: "127.0.0.1:0", Token: connect.Secret(token)}, version).Address()
	plain := serve(t, config.Admin{Address: "127.0.0.1:0"}, version).Address()
	older := serve(t, config.Admin{Address: "127.0.0.1:0"}, "v0.9.0").Address()
	flows := func(c *admin.Client) error { _, err := c.Flows(t.Context()); return err }
	unknown := func(c *admin.Client) error { _, err := c.Steer(t.Context(), "x", "dance"); return err }
	for _, tt := range []struct {
		name   string
		target admin.Target
		ask    func(*admin.Client) error
		want   []string
	}{
		{"nothing listens", admin.Target{Address: free}, flows, []string{"no penstock listens on " + free, "penstock run", "--admin"}},
		{"something else listens", admin.Target{Address: host(other)}, flows, []string{"not the admin server", "--admin"}},
		{"no token", admin.Target{Address: locked}, flows, []string{"wants its token", "--token-file", "PENSTOCK_ADMIN_TOKEN"}},
		{"wrong token", admin.Target{Address: locked, Token: token + "x"}, flows, []string{"the token is not the one"}},
		{"right token", admin.Target{Address: locked, Token: token}, flows, nil},
		{"no such flow", admin.Target{Address: plain}, func(c *admin.Client) error { _, err := c.Flow(t.Context(), "x"); return err }, []string{`flow "x"`, "there are none"}},
		{"the server is older", admin.Target{Address: older}, unknown, []string{"penstock v0.9.0", "does not know", version}},
		{"the server speaks TLS", admin.Target{Address: "http://" + host(secure)}, flows, []string{"speaks TLS", "https://"}},
		{"the server speaks no TLS", admin.Target{Address: "https://" + plain}, flows, []string{"does not speak TLS", "http://"}},
		{"a stranger has signed", admin.Target{Address: "https://" + host(secure)}, flows, []string{"signed by nobody", "--ca"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.ask(newClient(t, tt.target))
			if (err == nil) != (tt.want == nil) {
				t.Fatal(err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
	if err := flows(newClient(t, admin.Target{Address: free})); !errors.As(err, new(*admin.UnreachableError)) {
		t.Errorf("%T is not an UnreachableError", err)
	}
}

func TestWrongTargetsAreRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, target := range map[string]admin.Target{
		"host:port":           {Address: "ftp://x:1"},
		"the port is missing": {Address: "localhost"},
		"is empty":            {Address: "localhost:1", TokenFile: empty},
		"no certificate":      {Address: "localhost:1", CA: empty},
		"belong together":     {Address: "localhost:1", Cert: empty},
	} {
		if _, err := admin.NewClient(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", target, err, want)
		}
	}
}

func TestTapEndsWithTheProcessAndWithItsClient(t *testing.T) {
	w := newWorld(t, "orders")
	stop := w.keepProducing("orders")
	w.await("orders", "records", func(f *admin.Flow) bool { return f.Records > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	q := admin.TapQuery{Stages: []string{"written"}, Rate: 1000, Where: `value.name.startsWith("n")`}
	began := false
	err := w.client.Tap(ctx, "orders", q, func() { began = true }, func(line json.RawMessage) error {
		var r struct {
			Topic string
			Row   struct{ Name string }
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		if r.Topic != "orders" || !strings.HasPrefix(r.Row.Name, "n") {
			t.Errorf("not what was asked for: %s", line)
		}
		cancel()
		return nil
	})
	if err != nil || !began {
		t.Errorf("a tap that its client has ended: %v; begun: %t", err, began)
	}

	ended := make(chan error, 1)
	began2 := make(chan struct{})
	go func() {
		ended <- w.client.Tap(t.Context(), "orders", admin.TapQuery{}, func() { close(began2) }, func(json.RawMessage) error { return nil })
	}()
	<-began2
	stop()
	began3 := time.Now()
	w.ended()
	if err := <-ended; err != nil || time.Since(began3) > 10*time.Second {
		t.Errorf("a tap whose process has ended after %s: %v", time.Since(began3), err)
	}
}

func TestTapsAreBounded(t *testing.T) {
	w := newWorld(t, "orders")
	ctx, cancel := context.WithCancel(t.Context())
	var taps sync.WaitGroup
	defer taps.Wait()
	defer cancel()
	tap := func(ready func()) error {
		return w.client.Tap(ctx, "orders", admin.TapQuery{}, ready, func(json.RawMessage) error { return nil })
	}
	for range admin.MaxTaps {
		there := make(chan struct{})
		taps.Go(func() {
			if err := tap(func() { close(there) }); err != nil {
				t.Error(err)
			}
		})
		<-there
	}
	if err := tap(func() {}); err == nil || !strings.Contains(err.Error(), "end one of them") {
		t.Errorf("one tap too many: %v", err)
	}
}

func TestRatesSurviveANewProcess(t *testing.T) {
	old := admin.Flow{Records: 1000, Batches: 10, LagRecords: 50}
	now := admin.Flow{Records: 30, Batches: 3, LagRecords: 20}
	if r := admin.Between(&old, &now, 10*time.Second); r.Records != 3 || r.Lag != -3 || r.CommitP50 != nil {
		t.Errorf("%+v", r)
	}
	if r := admin.Between(&old, &now, 0); r != (admin.Rates{}) {
		t.Errorf("rates of no time: %+v", r)
	}
}

func TestServerStopsBeforeItStarts(t *testing.T) {
	s, err := admin.New(admin.Config{Admin: config.Admin{Address: "127.0.0.1:0"}}, new(supervisor.Supervisor), telemetry.NewRegistry(""), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Start(t.Context()); err != nil || s.Address() != "" {
		t.Errorf("it has started after its end at %q: %v", s.Address(), err)
	}
}

func TestHTTPSWithClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := admin.Authority(t)
	ca.Issue(t, filepath.Join(dir, "both"))
	files := struct{ cert, key, ca string }{filepath.Join(dir, "both.pem"), filepath.Join(dir, "both.key"), filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(files.ca, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, config.Admin{Address: "127.0.0.1:0", TLS: config.AdminTLS{Cert: files.cert, Key: files.key, ClientCA: files.ca}}, version)
	if _, err := newClient(t, admin.Target{Address: s.Address(), CA: files.ca, Cert: files.cert, Key: files.key}).Flows(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := newClient(t, admin.Target{Address: s.URL(), CA: files.ca}).Flows(t.Context()); err == nil || !strings.Contains(err.Error(), "--cert and --key") {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestReadinessNamesEveryFlowWithItsReason(t *testing.T) {
	w := newWorld(t, "orders", "other")
	w.produce("orders", 2)
	w.await("orders", "records", records(2))
	w.write("other", "127.0.0.1:1")
	if report, err := w.client.Reload(t.Context()); err != nil || !report.OK {
		t.Fatalf("%+v, %v", report, err)
	}
	resp, err := http.Get(w.server.URL() + "/readyz") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "orders: ok\n") || !strings.Contains(text, "other: the flow is connecting") {
		t.Errorf("%d: %s", resp.StatusCode, text)
	}
	http.DefaultClient.CloseIdleConnections()
}
