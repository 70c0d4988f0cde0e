package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/penstockdev/penstock/internal/admin"
)

// document is the OpenAPI document, read so strictly that an answer with a field that it
// does not name is wrong.
func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(admin.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableSchemaFormatValidation()); err != nil {
		t.Fatal(err)
	}
	no := false
	for _, s := range doc.Components.Schemas {
		strict(s.Value, &no)
	}
	return doc
}

func strict(s *openapi3.Schema, no *bool) {
	if s == nil {
		return
	}
	if len(s.Properties) > 0 {
		s.AdditionalProperties.Has = no
	}
	for _, p := range s.Properties {
		if p.Ref == "" {
			strict(p.Value, no)
		}
	}
	if s.Items != nil && s.Items.Ref == "" {
		strict(s.Items.Value, no)
	}
}

func TestDocumentHasEveryRouteAndNoOther(t *testing.T) {
	var documented []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	served := admin.Routes()
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented:\n%s\nserved:\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
}

// checker sends real requests, and holds them and their answers against the document.
type checker struct {
	t      *testing.T
	doc    *openapi3.T
	router routers.Router
	base   string

	mu     sync.Mutex // guards what follows
	called map[string]bool
}

func newChecker(t *testing.T, base string) *checker {
	doc := document(t)
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, contentType := range []string{"text/html", "application/x-ndjson"} {
		openapi3filter.RegisterBodyDecoder(contentType, openapi3filter.FileBodyDecoder)
		t.Cleanup(func() { openapi3filter.UnregisterBodyDecoder(contentType) })
	}
	return &checker{t: t, doc: doc, router: router, base: base, called: map[string]bool{}}
}

// do sends a request that the document allows, and returns the answer.
func (c *checker) do(method, path, body string, want int) string {
	c.t.Helper()
	text, err := c.ask(method, path, body, want)
	if err != nil {
		c.t.Errorf("the document does not allow the request %s %s %s: %v", method, path, body, err)
	}
	return text
}

// wrong sends a request that the document refuses, as the server should.
func (c *checker) wrong(method, path, body string, want int) {
	c.t.Helper()
	if _, err := c.ask(method, path, body, want); err == nil {
		c.t.Errorf("the document allows the request %s %s %s", method, path, body)
	}
}

func (c *checker) ask(method, path, body string, want int) (text string, refused error) {
	c.t.Helper()
	request := func() *http.Request {
		r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
		if err != nil {
			c.t.Fatal(err)
		}
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		return r
	}
	r := request()
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		c.t.Fatalf("%s %s is not in the document: %v", method, path, err)
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	refused = openapi3filter.ValidateRequest(c.t.Context(), in)

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(request())
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != want {
		c.t.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, answer)
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(answer)), Options: options,
	}
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		c.t.Errorf("the answer to %s %s is not as documented: %v\n%.2000s", method, path, err, answer)
	}
	if want == http.StatusOK {
		c.mu.Lock()
		c.called[method+" "+route.Path] = true
		c.mu.Unlock()
	}
	return string(answer), refused
}

// line holds one line of a stream against a schema.
func (c *checker) line(schema string, line []byte) {
	c.t.Helper()
	var v any
	if err := json.Unmarshal(line, &v); err != nil {
		c.t.Fatalf("%v: %s", err, line)
	}
	if err := c.doc.Components.Schemas[schema].Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
		c.t.Errorf("not a %s: %v\n%s", schema, err, line)
	}
}

func TestHandlersDoWhatTheDocumentSays(t *testing.T) {
	w := newWorld(t, "orders")
	c := newChecker(t, w.server.URL())
	w.produce("orders", 10)
	w.await("orders", "all records", records(10))

	c.do("GET", "/v1/openapi.json", "", 200)
	c.do("GET", "/v1/flows", "", 200)
	c.do("GET", "/v1/flows/orders", "", 200)
	c.do("GET", "/v1/flows/nobody", "", 404)
	c.do("GET", "/healthz", "", 200)
	c.do("GET", "/readyz", "", 200)
	c.do("GET", "/metrics", "", 200)
	c.do("GET", "/debug/pprof/", "", 200)
	c.do("GET", "/debug/pprof/goroutine?debug=1", "", 200)
	c.do("GET", "/debug/pprof/heap", "", 200)
	c.do("GET", "/debug/pprof/nothing", "", 404)
	c.do("GET", "/debug/pprof/cmdline", "", 404)

	total, stop := int64(10), w.keepProducing("orders")
	for line := range strings.Lines(c.do("GET", "/v1/flows/orders/tap?stage=read&stage=written&limit=3&rate=1000&where=partition+%3E%3D+0", "", 200)) {
		if line != "\n" {
			c.line("TapRecord", []byte(line))
		}
	}
	total += stop()
	c.do("GET", "/v1/flows/nobody/tap", "", 404)
	c.wrong("GET", "/v1/flows/orders/tap?stage=nothing", "", 400)
	c.wrong("GET", "/v1/flows/orders/tap?rate=0", "", 400)
	c.wrong("GET", "/v1/flows/orders/tap?rate=5000", "", 400)
	c.do("GET", "/v1/flows/orders/tap?where=value.", "", 400)
	w.await("orders", "all records", records(total))

	c.do("POST", "/v1/flows/orders/pause", "", 200)
	c.do("POST", "/v1/flows/orders/resume", "", 200)
	c.do("GET", "/v1/flows/orders/position", "", 200)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"beginning"}`, 200)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"beginning","apply":true}`, 409) // it runs
	c.do("PUT", "/v1/flows/orders/position", `{"to":"somewhere"}`, 400)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"nowhere/0=1"}`, 400) // it does not read that topic
	c.wrong("PUT", "/v1/flows/orders/position", `{"to":1}`, 400)
	c.wrong("PUT", "/v1/flows/orders/position", `{"until":"end"}`, 400)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"end"}{"to":"beginning"}`, 400)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"`+strings.Repeat("x", 2<<20)+`"}`, 413)
	c.do("POST", "/v1/flows/orders/stop", "", 200)
	c.do("POST", "/v1/flows/orders/pause", "", 409)
	c.do("PUT", "/v1/flows/orders/position", `{"to":"orders/1=3","apply":true}`, 200)
	c.do("POST", "/v1/flows/orders/start", "", 200)
	c.do("POST", "/v1/flows/nobody/start", "", 404)
	w.await("orders", "what was read again", records(total+total/2-3))

	c.do("POST", "/v1/reload", "", 200)
	w.writeText("orders", "flow: orders\n")
	if report := c.do("POST", "/v1/reload", "", 200); !strings.Contains(report, `"ok":false`) || !strings.Contains(report, "source") {
		t.Errorf("a broken file was taken: %s", report)
	}
	c.do("GET", "/v1/flows/orders", "", 200)

	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			if !c.called[method+" "+path] {
				t.Errorf("%s %s was not tried", method, path)
			}
		}
	}
}
