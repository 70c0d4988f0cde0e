package present

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// Styles are functions that colour a text, or return it as it is.
type Styles struct {
	Bold, Dim, Red, Green, Yellow, Cyan func(string) string
}

// Style returns the colours for w: those that do nothing unless w is a terminal, NO_COLOR
// is empty and TERM is not dumb, or --color has said otherwise (see Colored).
func Style(w io.Writer) Styles {
	sgr := func(code string) func(string) string {
		return func(s string) string {
			if s == "" {
				return ""
			}
			return "\x1b[" + code + "m" + s + "\x1b[0m"
		}
	}
	if !colorful(w) {
		sgr = func(string) func(string) string { return func(s string) string { return s } }
	}
	return Styles{Bold: sgr("1"), Dim: sgr("2"), Red: sgr("31"), Green: sgr("32"), Yellow: sgr("33"), Cyan: sgr("36")}
}

func colorful(w io.Writer) bool {
	if c, ok := w.(*colored); ok {
		return c.always
	}
	return Terminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Terminal says whether a person looks at w.
func Terminal(w io.Writer) bool {
	if c, ok := w.(*colored); ok {
		w = c.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // file descriptors are small
}

// colored is a writer for which a person has decided.
type colored struct {
	io.Writer
	always bool
}

// Colored returns w as --color wants it: always, never, or auto, which changes nothing.
func Colored(w io.Writer, mode string) (io.Writer, error) {
	switch mode {
	case "auto":
		return w, nil
	case "always", "never":
		if c, ok := w.(*colored); ok {
			w = c.Writer
		}
		return &colored{w, mode == "always"}, nil
	}
	return nil, fmt.Errorf("--color %q: want auto, always or never", mode)
}
