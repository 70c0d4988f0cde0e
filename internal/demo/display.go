package demo

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// display shows progress: one line that is redrawn on a terminal, a line a
// second elsewhere.
type display struct {
	out      io.Writer
	fd       int // of the terminal; -1 if there is none
	last     time.Time
	drawn    bool
	refresh  time.Duration
	barWidth int
}

func newDisplay(out io.Writer) *display {
	d := &display{out: out, fd: -1, refresh: time.Second}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		d.fd, d.refresh, d.barWidth = int(f.Fd()), 100*time.Millisecond, 24
	}
	return d
}

// say prints lines that stay.
func (d *display) say(format string, args ...any) {
	d.clear()
	_, _ = fmt.Fprintf(d.out, format+"\n", args...)
}

// progress draws done of total with what else there is to say, if it is time
// to, or if it is the last.
func (d *display) progress(what string, done, total int64, rest string) {
	if now := time.Now(); now.Sub(d.last) >= d.refresh || done == total {
		d.last = now
	} else {
		return
	}
	percent := 100 * done / max(1, total)
	if d.fd < 0 {
		_, _ = fmt.Fprintf(d.out, "  %-9s %3d %%  %s of %s  %s\n", what, percent, comma(done), comma(total), rest)
		return
	}
	width, _, err := term.GetSize(d.fd)
	if err != nil {
		width = 80
	}
	full := int(int64(d.barWidth) * done / max(1, total))
	line := fmt.Sprintf("  %-9s %s%s %3d %%  %s of %s  %s", what, strings.Repeat("█", full), strings.Repeat("░", d.barWidth-full),
		percent, comma(done), comma(total), rest)
	if r := []rune(line); len(r) >= width {
		line = string(r[:max(0, width-1)])
	}
	_, _ = fmt.Fprint(d.out, "\r\x1b[K"+line)
	d.drawn = true
}

// keep leaves the line that is drawn where it is.
func (d *display) keep() {
	if d.drawn {
		_, _ = fmt.Fprintln(d.out)
		d.drawn = false
	}
	d.last = time.Time{}
}

func (d *display) clear() {
	if d.drawn {
		_, _ = fmt.Fprint(d.out, "\r\x1b[K")
		d.drawn = false
	}
}

// comma writes 1,234,567.
func comma(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// seconds writes a duration as people say it.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
