package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// admin looks whether a server answers at the address, and whether it is one of ours.
// None is not wrong: nothing need run.
func admin(ctx context.Context, address string) connect.Check {
	c := connect.Check{What: "admin server " + address, Status: connect.CheckOK, Field: "address"}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	health, body, err := get(ctx, address, "/healthz")
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		c.Found = "nothing listens there: the address is free"
		return c
	case err != nil:
		c.Status, c.Found = connect.CheckWarning, "it does not answer: "+err.Error()
		c.Next = "see what listens there, or choose another admin.address"
		return c
	case health == http.StatusBadRequest && strings.Contains(body, "HTTPS"):
		c.Found = "a server answers with TLS"
		return c
	case health != http.StatusOK && health != http.StatusServiceUnavailable, health == http.StatusOK && body != "ok":
		c.Status, c.Found = connect.CheckWarning, fmt.Sprintf("something answers that is not Penstock (status %d)", health)
		c.Next = "choose another admin.address"
		return c
	}
	switch ready, why, err := get(ctx, address, "/readyz"); {
	case err != nil:
		c.Status, c.Found = connect.CheckWarning, "a flow process answers /healthz, and not /readyz: "+err.Error()
	case ready != http.StatusOK:
		c.Status, c.Found, c.Next = connect.CheckWarning, "a flow process answers and is not ready: "+strings.ReplaceAll(why, "\n", "; "), "penstock flows says what each flow waits for"
	default:
		c.Found = "a flow process answers and is ready"
	}
	return c
}

func get(ctx context.Context, address, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return resp.StatusCode, string(bytes.TrimSpace(data)), err
}
