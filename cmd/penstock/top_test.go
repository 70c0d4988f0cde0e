package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/telemetry"
)

var topStart = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// lookAt is how three flows look after so many seconds: a is quick, b falls behind, c has failed.
func lookAt(second int64) looked {
	at := topStart.Add(time.Duration(second) * time.Second)
	commits := telemetry.Histogram{
		Count: uint64(10 * second), Buckets: []telemetry.Bucket{{UpperBound: .01, Count: uint64(5 * second)}, {UpperBound: .1, Count: uint64(10 * second)}},
	}
	return looked{at: at, list: &admin.FlowList{Time: at, Flows: []admin.Flow{
		{Name: "a", State: "running", Ready: true, Since: topStart, Records: 20_000 * second, LagRecords: 10_000 - 100*second, Commit: commits},
		{Name: "b", State: "running", Ready: true, Since: topStart, Records: 5 * second, LagRecords: 20_000 * second},
		{Name: "c", State: "stopped", Since: topStart, Error: "the table is gone\x1b[2J", Reason: "the flow has failed"},
	}}}
}

func newTestTop(t *testing.T) *top {
	t.Helper()
	client, err := admin.NewClient(admin.Target{Address: "127.0.0.1:9464"})
	if err != nil {
		t.Fatal(err)
	}
	m := &top{ctx: t.Context(), client: client, interval: time.Second, out: &bytes.Buffer{}}
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 20})
	return m
}

func press(m *top, keys ...string) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		switch k {
		case "enter":
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "esc":
			msg = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "down":
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		}
		m.Update(msg)
	}
}

// row is the line of a flow, its cells separated by one blank.
func row(view, name string) string {
	for line := range strings.Lines(view) {
		if f := strings.Fields(strings.TrimPrefix(line, ">")); len(f) > 1 && f[0] == name {
			return strings.Join(f, " ")
		}
	}
	return ""
}

func TestTopShowsRatesOfTheLastLooks(t *testing.T) {
	m := newTestTop(t)
	for s := range int64(11) {
		m.Update(lookAt(s))
	}
	view := m.screen()
	for name, want := range map[string]string{
		"a": "a running 20k 9000 -100/s, 1m30s left 0s 0 10ms 98ms 10s",
		"b": "b running 5 200k +20k/s 0s 0 - - 10s",
		"c": "c stopped 0 - - - 0 - - 10s",
	} {
		if got := row(view, name); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if !strings.Contains(view, "3 flows   20k records/s   lag 209k") {
		t.Errorf("no sums:\n%s", view)
	}
}

func TestTopChoosesAndSorts(t *testing.T) {
	m := newTestTop(t)
	m.Update(lookAt(1))
	m.Update(lookAt(2))
	order := func() (names string) {
		for line := range strings.Lines(m.screen()) {
			if f := strings.Fields(strings.TrimPrefix(line, ">")); len(f) > 5 && len(f[0]) == 1 && f[0] >= "a" {
				names += f[0]
			}
		}
		return names
	}
	for _, step := range []struct{ key, want string }{{"f", "abc"}, {"l", "bac"}, {"l", "cab"}, {"r", "abc"}, {"s", "abc"}, {"s", "cba"}} {
		press(m, step.key)
		if got := order(); got != step.want {
			t.Errorf("after %s: %s, want %s", step.key, got, step.want)
		}
	}
	press(m, "f", "g", "down", "down", "down")
	if view := m.screen(); m.chosen != "c" || !strings.Contains(view, "penstock start c") {
		t.Errorf("%q is chosen, and what to do about c is not shown:\n%s", m.chosen, view)
	} else if strings.Contains(view, "\x1b") {
		t.Errorf("an error speaks to the terminal: %q", view)
	}
}

func TestTopShowsOneFlowAndScrolls(t *testing.T) {
	m := newTestTop(t)
	m.Update(lookAt(1))
	press(m, "enter")
	f := lookAt(2).list.Flows[0]
	f.Lanes = []admin.Lane{{Lane: 0, Partitions: 50, Error: "away"}}
	for i := range int32(50) {
		f.Partitions = append(f.Partitions, admin.Partition{Topic: "t", Partition: i, LagRecords: int64(i)})
	}
	m.Update(looked{at: topStart.Add(2 * time.Second), flow: &f})
	m.Update(lookAt(3)) // was asked before enter was pressed
	view := m.screen()
	if !strings.Contains(view, "records/s 20k") || !strings.Contains(view, "away") || !strings.Contains(view, "more below") {
		t.Errorf("the first look at one flow:\n%s", view)
	}
	if n := strings.Count(view, "\n") + 1; n != 20 {
		t.Errorf("%d lines in a window of 20", n)
	}
	press(m, "G")
	if view := m.screen(); row(view, "t") == "" || !strings.Contains(view, "t      0  ") || strings.Contains(view, "more below") {
		t.Errorf("the end is not shown:\n%s", view)
	}
	press(m, "esc")
	if view := m.screen(); row(view, "b") == "" {
		t.Errorf("not back:\n%s", view)
	}
}

func TestTopKeepsWhatItSawWhenTheProcessIsAway(t *testing.T) {
	m := newTestTop(t)
	m.Update(lookAt(1))
	_, next := m.Update(looked{err: errors.New("connection refused")})
	if view := m.screen(); row(view, "a") == "" || !strings.Contains(view, "these are old: connection refused") {
		t.Errorf("%s", view)
	}
	if next == nil {
		t.Error("it does not look again")
	}
	m.Update(lookAt(2))
	if strings.Contains(m.screen(), "refused") {
		t.Error("the error stays when the process is back")
	}
	_, quit := m.Update(tea.KeyPressMsg{Text: "q", Code: 'q'})
	if quit == nil || fmt.Sprint(quit()) != fmt.Sprint(tea.Quit()) {
		t.Error("q does not end it")
	}
}

func TestNumbersFitTheirColumns(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.5: "0.5", 12: "12", 9999: "9999", 10_000: "10k", 12_345: "12.3k", 999_600: "1M", 1_234_567: "1.23M", 2.5e9: "2.5G", -20_000: "-20k"} {
		if got := count(v); got != want {
			t.Errorf("count(%v) = %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0s", 0.0004: "0.4ms", 0.0123: "12ms", 1.25: "1.2s", 59.99: "60.0s", 75: "1m15s", 7300: "2h1m", 200_000: "2d7h"} {
		if got := seconds(v); got != want {
			t.Errorf("seconds(%v) = %s, want %s", v, got, want)
		}
	}
}
