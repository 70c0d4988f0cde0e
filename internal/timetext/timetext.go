// Package timetext reads times of any year. What belongs here: the years that package time
// writes and does not read.
package timetext

import (
	"strconv"
	"strings"
	"time"
)

// Parse reads what time.Format wrote in the layout, which begins with the year. Kafka allows any time, and
// producers that take one unit for another write years of more than four digits, or below zero: they are
// read as a year with the same days. An empty text is an error.
func Parse(layout, s string) (time.Time, error) {
	t, err := time.Parse(layout, s)
	if err == nil || s == "" {
		return t, err
	}
	digits := strings.IndexByte(s[1:], '-') + 1
	year, yearErr := strconv.Atoi(s[:digits])
	if yearErr != nil {
		return t, err
	}
	near := 2000 + year%400
	if t, err = time.Parse(layout, strconv.Itoa(near)+s[digits:]); err != nil {
		return t, err
	}
	return t.AddDate(year-near, 0, 0), nil
}
