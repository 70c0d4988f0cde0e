package admin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Target says which admin server a Client talks to, and how.
type Target struct {
	// Address is a URL or host:port. Without a scheme it is https if CA or Cert is set,
	// else http.
	Address string
	// TokenFile holds the token; Token is the token itself. TokenFile goes first.
	TokenFile, Token string
	// CA are the certificates (PEM) that may sign the server's; default: the system's.
	// Cert and Key are the client's own.
	CA, Cert, Key string
	// Version is that of the program that asks, for messages.
	Version string
}

// Client asks the admin server of a process. Its errors are sentences for a person that say
// what to do; what the server refused is a *Problem.
type Client struct {
	base    *url.URL
	token   string
	version string
	http    *http.Client
}

// UnreachableError says that no penstock answers.
type UnreachableError struct {
	// Address is what was asked.
	Address string
	Err     error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no penstock listens on %s: start one with penstock run, or name another with --admin (%v)", e.Address, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// NewClient makes a client. Nothing is asked yet.
func NewClient(t Target) (*Client, error) {
	address := t.Address
	if !strings.Contains(address, "://") {
		scheme := "http://"
		if t.CA != "" || t.Cert != "" {
			scheme = "https://"
		}
		address = scheme + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || strings.Trim(base.Path, "/") != "" || base.User != nil {
		return nil, fmt.Errorf("--admin: want host:port or a URL like https://host:9464")
	}
	if base.Port() == "" {
		return nil, fmt.Errorf("--admin %s: the port is missing; penstock listens on 9464 unless told otherwise", t.Address)
	}
	base.Path = ""
	c := &Client{base: base, token: strings.TrimSpace(t.Token), version: t.Version}
	if t.TokenFile != "" {
		text, err := os.ReadFile(t.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		if c.token = strings.TrimSpace(string(text)); c.token == "" {
			return nil, fmt.Errorf("--token-file: %s is empty", t.TokenFile)
		}
	}
	config, err := t.tls()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:     (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second,
			ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
			// A proxy of the environment is for the internet, unless the server is there.
			Proxy: http.ProxyFromEnvironment,
		},
		// A token is not for whoever is redirected to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func (t *Target) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM form", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("--cert and --key belong together: give both")
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// Address is the address that it asks.
func (c *Client) Address() string { return c.base.Host }

// Close frees its connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Flows returns all flows, without their lanes and partitions.
func (c *Client) Flows(ctx context.Context) (*FlowList, error) {
	return call[FlowList](ctx, c, http.MethodGet, "/v1/flows", nil)
}

// Flow returns one flow with its lanes and partitions.
func (c *Client) Flow(ctx context.Context, name string) (*Flow, error) {
	return call[Flow](ctx, c, http.MethodGet, flowPath(name, ""), nil)
}

// Steer does what is pause, resume, stop or start with a flow, and returns what it is then.
func (c *Client) Steer(ctx context.Context, name, what string) (*Flow, error) {
	return call[Flow](ctx, c, http.MethodPost, flowPath(name, what), nil)
}

// Positions returns where a flow stands.
func (c *Client) Positions(ctx context.Context, name string) (*PositionList, error) {
	return call[PositionList](ctx, c, http.MethodGet, flowPath(name, "position"), nil)
}

// SetPositions plans a change of positions, and does it if r says so.
func (c *Client) SetPositions(ctx context.Context, name string, r *PositionRequest) (*Plan, error) {
	return call[Plan](ctx, c, http.MethodPut, flowPath(name, "position"), r)
}

// Reload reads the flow files again.
func (c *Client) Reload(ctx context.Context) (*ReloadReport, error) {
	return call[ReloadReport](ctx, c, http.MethodPost, "/v1/reload", nil)
}

// TapQuery says what of a flow's records to see.
type TapQuery struct {
	// Stages are read, decoded, written, dead; default: read.
	Stages []string
	// Where is a CEL expression; empty: all.
	Where string
	// Rate is records per second, Limit the records after which it ends; 0: the default, and none.
	Rate, Limit int
}

// Tap calls fn with every record, a JSON object, until ctx or the flow ends, fn returns an
// error, or the limit is reached. Ready is called when the server has begun.
func (c *Client) Tap(ctx context.Context, name string, q TapQuery, ready func(), fn func(json.RawMessage) error) error {
	path := flowPath(name, "tap") + "?" + q.encode()
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what was wanted has been read
	ready()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case err != nil:
			return fmt.Errorf("the tap of flow %s was cut off by %s: %w", name, c.Address(), err)
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue // sent to keep the connection up
		}
		var end struct {
			Problem *Problem `json:"problem"`
		}
		if err := json.Unmarshal(line, &end); err != nil {
			return c.foreign(err)
		}
		if end.Problem != nil {
			return end.Problem
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

func flowPath(name, what string) string {
	path := "/v1/flows/" + url.PathEscape(name)
	if what != "" {
		path += "/" + what
	}
	return path
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // what was wanted has been read
	out := new(T)
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return nil, c.foreign(err)
	}
	return out, nil
}

// do returns an answer of success.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	if resp.StatusCode < 300 && resp.Header.Get(versionHeader) != "" {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // what was wanted has been read
	return nil, c.refused(resp)
}

func (c *Client) unanswered(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("penstock at %s has not answered: %w", c.Address(), context.Cause(ctx))
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %s is signed by nobody that this machine knows: name who signed it with --ca (%w)", c.Address(), err)
	case errors.As(err, &record):
		return fmt.Errorf("%s does not speak TLS: use http:// in --admin, and no --ca and --cert", c.Address())
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS: use http:// in --admin, and no --ca and --cert", c.Address())
	}
	return &UnreachableError{Address: c.Address(), Err: err}
}

// refused turns an answer that is no success into an error.
func (c *Client) refused(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is of it
	theirs := resp.Header.Get(versionHeader)
	var p Problem
	switch {
	case theirs == "" && strings.Contains(string(text), "HTTP request to an HTTPS server"):
		return fmt.Errorf("%s speaks TLS: use https:// in --admin, and --ca where its certificate is not one that this machine knows", c.Address())
	case theirs == "":
		return c.foreign(fmt.Errorf("it answered %s", resp.Status))
	case json.Unmarshal(text, &p) != nil || p.Status == 0:
		return fmt.Errorf("penstock %s at %s answered %s", theirs, c.Address(), resp.Status)
	case p.Title == titleNoPage && theirs != c.version:
		return fmt.Errorf("penstock %s at %s does not know this command of penstock %s: use the same version for both", theirs, c.Address(), c.version)
	}
	return &p
}

func (c *Client) foreign(err error) error {
	return fmt.Errorf("what listens on %s is not the admin server of a penstock, or of a version that this one (%s) does not understand: name another with --admin (%w)", c.Address(), c.version, err)
}

func (q *TapQuery) encode() string {
	v := url.Values{}
	for _, s := range q.Stages {
		v.Add("stage", s)
	}
	if q.Where != "" {
		v.Set("where", q.Where)
	}
	if q.Rate != 0 {
		v.Set("rate", fmt.Sprint(q.Rate))
	}
	if q.Limit != 0 {
		v.Set("limit", fmt.Sprint(q.Limit))
	}
	return v.Encode()
}
