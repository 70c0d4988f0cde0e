package dlq

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstockdev/penstock/internal/present"
)

// This file is how letters look to a person. What comes from a record passes through present.

const layoutTime = "2006-01-02 15:04:05"

// Table writes the summary.
func (s *Summary) Table(w io.Writer) error {
	if s.Letters == 0 {
		fmt.Fprintf(w, "flow %s has no such dead letters in %s\n", s.Flow, s.Place)
	} else {
		fmt.Fprintf(w, "flow %s: %s in %s", s.Flow, count(s.Letters, "dead letter"), s.Place)
		if s.Quarantined > 0 {
			fmt.Fprintf(w, ", %d of them quarantined (see penstock dlq redrive --max-redrives)", s.Quarantined)
		}
		fmt.Fprint(w, "\n\n")
		if err := groupTable(w, s.Groups); err != nil {
			return err
		}
	}
	for _, j := range s.Jobs {
		what := "an unfinished job of another program"
		switch j.Kind {
		case KindRedrive:
			what = "an unfinished redrive: repeat its command to go on, or give it up with penstock dlq redrive --release"
		case KindDrop:
			what = "an unfinished drop: repeat its command to go on, or give it up with penstock dlq drop --release"
		}
		if _, err := fmt.Fprintf(w, "\n%s has %s: %s\n", present.Line(j.Job), count(j.Letters, "letter"), what); err != nil {
			return err
		}
	}
	return nil
}

func groupTable(w io.Writer, groups []Group) error {
	quarantined := slices.ContainsFunc(groups, func(g Group) bool { return g.Quarantined > 0 })
	header := []string{"CLASS", "TOPIC", "COLUMN", "LETTERS"}
	if quarantined {
		header = append(header, "QUARANTINED")
	}
	header = append(header, "FIRST", "LAST", "EXAMPLE", "MESSAGE")
	rows := make([][]string, 0, len(groups))
	for i := range groups {
		g := &groups[i]
		row := []string{g.Class, g.Topic, g.Column, strconv.Itoa(g.Letters)}
		if quarantined {
			row = append(row, strconv.Itoa(g.Quarantined))
		}
		rows = append(rows, append(row, g.First.UTC().Format(layoutTime), g.Last.UTC().Format(layoutTime), g.Example, shorten(g.Message, 80)))
	}
	return present.Table(w, header, rows)
}

// LettersTable writes a line for each letter.
func LettersTable(w io.Writer, views []View) error {
	if len(views) == 0 {
		_, err := fmt.Fprintln(w, "no such dead letters")
		return err
	}
	rows := make([][]string, 0, len(views))
	for i := range views {
		v := &views[i]
		rows = append(rows, []string{v.ID, v.Class, v.Column, v.Since.Format(layoutTime), strconv.Itoa(v.Redrives), v.Job, shorten(textOf(v.Key, v.KeyBase64), 24), shorten(v.Message, 80)})
	}
	return present.Table(w, []string{"ID", "CLASS", "COLUMN", "SINCE", "REDRIVES", "JOB", "KEY", "MESSAGE"}, rows)
}

// Show writes the whole letter.
func (v *View) Show(w io.Writer) error {
	style := present.Style(w)
	fmt.Fprintf(w, "%s\n", style.Bold(present.Line(v.ID)))
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-10s %s\n", name, present.Line(value))
		}
	}
	what := v.Class
	if v.Column != "" {
		what += ", column " + v.Column
	}
	line("class", what+" ("+v.Stage+")")
	fmt.Fprintf(w, "  %-10s %s\n", "message", style.Red(present.Line(v.Message)))
	line("since", v.Since.Format(time.RFC3339))
	redrives := strconv.Itoa(v.Redrives)
	if v.Job != "" {
		redrives += ", taken by job " + v.Job
	}
	line("redrives", redrives)
	line("record", fmt.Sprintf("topic %s, partition %d, offset %d of %s, cluster %s", v.Topic, v.Partition, v.Offset, v.Time.Format(time.RFC3339Nano), v.Cluster))
	line("kept at", fmt.Sprintf("%s, partition %d, offset %d", v.Place.Name, v.Place.Partition, v.Place.Offset))
	line("key", textOf(v.Key, v.KeyBase64))
	for _, h := range v.Headers {
		line("header", h.Key+" = "+textOf(h.Value, h.ValueBase64))
	}
	if v.Tombstone {
		_, err := fmt.Fprintf(w, "  %-10s none: a tombstone\n\n", "value")
		return err
	}
	fmt.Fprintf(w, "  value\n")
	text := textOf(v.Value, v.ValueBase64)
	var pretty bytes.Buffer
	if v.Value != nil && json.Indent(&pretty, []byte(*v.Value), "", "  ") == nil {
		text = pretty.String()
	}
	for l := range strings.Lines(text + "\n") {
		fmt.Fprintf(w, "    %s\n", present.Line(strings.TrimRight(l, "\r\n")))
	}
	_, err := fmt.Fprintln(w)
	return err
}

func textOf(text *string, b []byte) string {
	switch {
	case text != nil:
		return *text
	case b != nil:
		return "base64 " + base64.StdEncoding.EncodeToString(b)
	}
	return ""
}

// Table writes the plan.
func (p *Plan) Table(w io.Writer) error {
	verb, letters := "redriven", count(p.Letters, "dead letter")
	if p.Kind == KindDrop {
		verb = "dropped for good"
	}
	switch {
	case p.Job != "":
		fmt.Fprintf(w, "job %s is not finished: this goes on with its %s in %s, to be %s\n\n", p.Job, letters, p.Place, verb)
	case p.Letters == 0:
		fmt.Fprintf(w, "flow %s has no such dead letters to be %s in %s\n", p.Flow, verb, p.Place)
	default:
		fmt.Fprintf(w, "%s of flow %s in %s to be %s\n\n", letters, p.Flow, p.Place, verb)
	}
	if p.Letters > 0 {
		if err := groupTable(w, p.Groups); err != nil {
			return err
		}
	}
	if p.Quarantined > 0 {
		fmt.Fprintf(w, "\n%s quarantined and left: redriven %d times or more, and failed each time (--max-redrives raises the limit)\n", isAre(p.Quarantined), p.options.MaxRedrives)
	}
	if p.NotEdited > 0 {
		fmt.Fprintf(w, "\n%s left because the edit does not work for them; the first: %s\n", isAre(p.NotEdited), present.Line(p.NotEditedWhy))
	}
	return nil
}

// PreviewTable writes what letters would become.
func PreviewTable(w io.Writer, fates []Fate) error {
	rows := make([][]string, 0, len(fates))
	for i := range fates {
		f := &fates[i]
		what, text := "row", ""
		switch {
		case f.Dead != nil:
			what, text = "dead letter", f.Dead.Class+": "+f.Dead.Message
		case f.Row != nil:
			b, err := json.Marshal(f.Row)
			if err != nil {
				return err
			}
			text = string(b)
		default:
			what, text = "record", *f.Record
		}
		if f.Table != "" && f.Dead == nil {
			what += " of " + f.Table
		}
		rows = append(rows, []string{f.ID, what, shorten(text, 160)})
	}
	return present.Table(w, []string{"LETTER", "BECOMES", ""}, rows)
}

// Table writes the result. skipped were never meant.
func (r *Result) Table(w io.Writer, skipped int) error {
	var parts []string
	if r.Kind == KindDrop && r.Released == 0 {
		parts = append(parts, fmt.Sprintf("dropped %d", r.Dropped))
	}
	if r.Kind == KindRedrive {
		parts = append(parts, fmt.Sprintf("redriven %d", r.Redriven))
		dead := fmt.Sprintf("dead again %d", r.DeadAgain())
		if len(r.Dead) > 0 {
			var classes []string
			for _, c := range slices.Sorted(maps.Keys(r.Dead)) {
				classes = append(classes, fmt.Sprintf("%s %d", c, r.Dead[c]))
			}
			dead += " (" + strings.Join(classes, ", ") + ")"
		}
		parts = append(parts, dead)
	}
	if skipped > 0 {
		parts = append(parts, fmt.Sprintf("skipped %d", skipped))
	}
	if r.Released > 0 {
		parts = append(parts, fmt.Sprintf("released %d", r.Released))
	}
	if r.Left > 0 {
		parts = append(parts, fmt.Sprintf("left %d: the same command goes on with them", r.Left))
	}
	_, err := fmt.Fprintln(w, present.Line(strings.Join(parts, ", ")))
	return err
}

// Text is the progress as one line.
func (p *Progress) Text() string {
	rate := 0.0
	if s := p.Elapsed.Seconds(); s > 0 {
		rate = float64(p.Done) / s
	}
	text := fmt.Sprintf("%d of %d letters, %d dead again, %.0f/s, %s", p.Done, p.Letters, p.Dead, rate, p.Elapsed.Round(time.Second))
	switch {
	case p.Yielded:
		text += "; another process goes on with the job: this one waits for its end"
	case p.Trouble != nil:
		text += "; trying again: " + present.Line(p.Trouble.Error())
	}
	return text
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func isAre(n int) string {
	if n == 1 {
		return "1 letter is"
	}
	return fmt.Sprintf("%d letters are", n)
}

func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
