package present_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/internal/present"
)

func TestTableAlignsByWhatATerminalShows(t *testing.T) {
	var b bytes.Buffer
	err := present.Table(&b, []string{"NAME", "N", ""}, [][]string{{"a", "10"}, {"日本", "2", "x"}, {"e\u0301", ""}})
	if err != nil {
		t.Fatal(err)
	}
	want := "NAME  N\na     10\n日本  2  x\ne\u0301\n"
	if b.String() != want {
		t.Errorf("got\n%q, want\n%q", b.String(), want)
	}
}

func TestALongLastCellMovesNothing(t *testing.T) {
	var b bytes.Buffer
	if err := present.Table(&b, nil, [][]string{{"a", "long enough"}, {"b", "c", "d"}, {"e", "longer", ""}}); err != nil {
		t.Fatal(err)
	}
	if want := "a  long enough\nb  c       d\ne  longer\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestCellsCannotSpeakToTheTerminal(t *testing.T) {
	var b bytes.Buffer
	if err := present.Table(&b, nil, [][]string{{"\x1b[2J\r\nx\xff\u202e"}}); err != nil {
		t.Fatal(err)
	}
	if want := `\x1b[2J\r\nx\xff\u202e` + "\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestPaintDoesNotMoveColumns(t *testing.T) {
	red := present.Style(colored(t, &bytes.Buffer{}, "always")).Red
	var b bytes.Buffer
	paint := func(row, column int, cell string) string {
		if row == 0 && column == 0 {
			return red(cell)
		}
		return cell
	}
	if err := present.Table(&b, []string{"A", "B"}, [][]string{{"bad", "1"}, {"x", "2"}}, paint); err != nil {
		t.Fatal(err)
	}
	if want := "A    B\n\x1b[31mbad\x1b[0m  1\nx    2\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestColourIsForTerminalsOrOnDemand(t *testing.T) {
	var b bytes.Buffer
	for mode, want := range map[string]string{"auto": "x", "never": "x", "always": "\x1b[1mx\x1b[0m"} {
		if got := present.Style(colored(t, &b, mode)).Bold("x"); got != want {
			t.Errorf("--color %s: got %q, want %q", mode, got, want)
		}
	}
	if _, err := present.Colored(&b, "sometimes"); err == nil {
		t.Error("--color sometimes is taken")
	}
}

func TestFormatFlagTakesWhatTheCommandHas(t *testing.T) {
	for _, c := range []struct {
		args []string
		want present.Format
		err  string
	}{
		{nil, "table", ""},
		{[]string{"-o", "json"}, "json", ""},
		{[]string{"--output=github"}, "github", ""},
		{[]string{"-o", "yaml"}, "", "want table, json or github"},
	} {
		cmd := &cobra.Command{Run: func(*cobra.Command, []string) {}, SilenceErrors: true, SilenceUsage: true}
		f := present.AddFormat(cmd, "github")
		cmd.SetArgs(append([]string{}, c.args...))
		err := cmd.Execute()
		switch {
		case c.err == "" && (err != nil || *f != c.want):
			t.Errorf("%v: %v, %v", c.args, *f, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%v: got %v, want %q", c.args, err, c.err)
		}
	}
}

func TestJSONIsReadableAsItStands(t *testing.T) {
	var b bytes.Buffer
	if err := present.JSON(&b, map[string]string{"a": "<&>"}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"a\": \"<&>\"\n}\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func colored(t *testing.T, b *bytes.Buffer, mode string) interface{ Write([]byte) (int, error) } {
	t.Helper()
	w, err := present.Colored(b, mode)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
