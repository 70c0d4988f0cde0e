package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Severity says whether a finding stops the flow.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Rule is the kind of a finding, for programs: it stays the same where words change.
type Rule string

// The rules.
const (
	RuleSyntax           Rule = "syntax"            // not YAML, or YAML that flow files do not have
	RuleUnreadable       Rule = "unreadable"        // the file cannot be read
	RuleUnknownField     Rule = "unknown-field"     // a name that no field of the section has
	RuleUnknownConnector Rule = "unknown-connector" // a name that no connector has
	RuleMissing          Rule = "missing"           // a required field or section is not there
	RuleDuplicate        Rule = "duplicate"         // the same name twice
	RuleType             Rule = "type"              // a value of another type
	RuleNotAllowed       Rule = "not-allowed"       // not among the values that the field takes
	RuleInvalid          Rule = "invalid"           // refused by what uses it
	RuleVariable         Rule = "variable"          // a ${...} that cannot be resolved, a variable that sets nothing
	RuleRoute            Rule = "route"             // topics and routes that do not fit
	RuleTooMany          Rule = "too-many"          // stands for the findings that are not shown
	RuleSharedName       Rule = "shared-name"       // two flows of one name
	RuleSharedGroup      Rule = "shared-group"      // two flows in one consumer group
	RuleDoubledRows      Rule = "doubled-rows"      // two flows write the same records into one table
	RuleAdmin            Rule = "admin"             // flows of one folder that cannot share a process
	RuleService          Rule = "service"           // what a real service says (lint --services)
)

// Problem is one finding about a flow file. It holds no secret.
type Problem struct {
	// File is the name of the file; where the value came from elsewhere, the flag
	// or the environment variable, and Line is 0.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`

	Severity Severity `json:"severity"`
	Rule     Rule     `json:"rule"`
	// Path is the field's, like batch.records; empty for the whole file.
	Path string `json:"path,omitempty"`
	// Message is a sentence without a full stop.
	Message string `json:"message"`
	// Hint says what is allowed, or what to do; may be empty.
	Hint string `json:"hint,omitempty"`
	// Allowed are the names or values that may stand there, where they are few.
	Allowed []string `json:"allowed"`
	// Suggestion is what was probably meant, to be written in place of what is there.
	Suggestion string `json:"suggestion"`
	// Source is the line at fault, masked.
	Source string `json:"source,omitempty"`

	// meant is the path of the field that an unknown one is probably a
	// misspelling of.
	meant string
	// covers says that nothing below Path was looked at.
	covers bool
	// more is how many findings this one stands for, which are not kept.
	more int
}

// Error is the finding in one line.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return visible(p.File + ": " + p.Message)
	}
	return visible(fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message))
}

// visible replaces what a terminal would obey or not show by its escape. Tabs
// stay.
func visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch _, n := utf8.DecodeRuneInString(s[i:]); {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// Text is the finding with the line, a caret and the hint, ending in a line end.
func (p *Problem) Text() string { return p.Styled(Look{plain, plain, plain, plain}) }

// Look is how the parts of a finding are shown: functions that colour a text.
type Look struct{ Error, Warning, Caret, Hint func(string) string }

func plain(s string) string { return s }

// Styled is Text as l shows it.
func (p *Problem) Styled(l Look) string {
	var b strings.Builder
	if p.Severity == SeverityWarning {
		place, said, _ := strings.Cut(p.Error(), ": ")
		b.WriteString(l.Warning(place + ": warning: " + said))
	} else {
		b.WriteString(l.Error(p.Error()))
	}
	b.WriteByte('\n')
	if p.Line > 0 {
		number := strconv.Itoa(p.Line)
		fmt.Fprintf(&b, "  %s | %s\n", number, visible(p.Source))
		// Tabs stay tabs, so that the caret stands below its character.
		before := p.Source
		column := 1
		for i := range p.Source { // by runes; a wrong byte is one, too
			if column == p.Column {
				before = p.Source[:i]
				break
			}
			column++
		}
		pad := []rune(visible(before))
		for i, r := range pad {
			if r != '\t' {
				pad[i] = ' '
			}
		}
		fmt.Fprintf(&b, "  %s | %s\n", strings.Repeat(" ", len(number)), string(pad)+l.Caret("^"))
	}
	for hint := range strings.Lines(p.Hint) { // a statement of SQL has several
		fmt.Fprintf(&b, "    %s\n", l.Hint(visible(strings.TrimSuffix(hint, "\n"))))
	}
	return b.String()
}

// Problems is the error of a wrong flow file: all its findings, in the order of
// the file.
type Problems []*Problem

// Error is all findings, one per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Text is all findings with their lines.
func (ps Problems) Text() string {
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(p.Text())
	}
	return b.String()
}

// Count is the number of findings, those included that are not shown.
func (ps Problems) Count() int {
	n := 0
	for _, p := range ps {
		n += max(1, p.more)
	}
	return n
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// Sort puts the findings into the order of the file; those outside it come last.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line // those outside the file come last
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

const mask = "******"

// frames fills in the source lines of the problems, masked: whatever scalar of
// the tree is not known to be harmless is not shown.
func (ps Problems) frames(data []byte, root *node, secrets []string) {
	lines := strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	var hidden []*node
	if root != nil {
		root.scalars(func(n *node) {
			if !n.public && n.at.origin == "" && n.raw != "" {
				hidden = append(hidden, n)
			}
		})
	}
	for _, p := range ps {
		p.Message, p.Hint = hide(p.Message, secrets), hide(p.Hint, secrets)
		if p.Line < 1 || p.Line > len(lines) {
			continue
		}
		line := lines[p.Line-1]
		if root == nil {
			lines[p.Line-1] = line[:min(len(line), 1000)]
			line = maskUnparsed(lines, p.Line-1)
		} else {
			line = maskNodes(line, p.Line, hidden)
		}
		p.Source = strings.TrimRight(shorten(hide(line, secrets)), " \t")
	}
}

// maskNodes hides from the first hidden scalar on the line to the line's end.
func maskNodes(line string, number int, hidden []*node) string {
	runes := []rune(line)
	from := len(runes)
	for _, n := range hidden {
		switch {
		case n.at.line == number:
			from = min(from, n.at.column-1)
		case n.at.line < number && number < n.end.line:
			from = 0
		case n.at.line < number && number == n.end.line:
			// The tail of a text of several lines, up to the next token.
			if strings.TrimSpace(string(runes[:min(len(runes), n.end.column-1)])) != "" {
				from = 0
			}
		}
	}
	if from >= len(runes) {
		return line
	}
	return string(runes[:from]) + mask
}

// secretish finds words that name something not to be shown.
var secretish = regexp.MustCompile(`(?i)pass|secret|token|pwd|cred|url|uri|dsn|auth|key|sasl|://`)

// maskUnparsed hides what may be secret on a line of a file that is not YAML, by
// the words on it and on the lines that it is nested in.
func maskUnparsed(lines []string, i int) string {
	line := lines[i]
	if secretish.MatchString(line) {
		if key, _, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(key, "'\"{[,") {
			return key + ": " + mask
		}
		return mask
	}
	indent := indentOf(line)
	for k := i - 1; k >= 0 && indent > 0; k-- {
		if strings.TrimSpace(lines[k]) == "" || indentOf(lines[k]) >= indent {
			continue
		}
		indent = indentOf(lines[k])
		// A parent with a value of its own continues on this line.
		if secretish.MatchString(lines[k]) {
			return mask
		}
	}
	// A quoted text that began above may have any indentation.
	for k := i - 1; k >= 0 && i-k < 50; k-- {
		if secretish.MatchString(lines[k]) && strings.Count(lines[k], `"`)%2+strings.Count(lines[k], "'")%2 > 0 {
			return mask
		}
	}
	return line
}

func indentOf(s string) int { return len(s) - len(strings.TrimLeft(s, " \t")) }

// shorten bounds the line shown.
func shorten(s string) string {
	const most = 160
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + " …"
}

// hide replaces the secrets wherever a message repeats one. Very short ones
// are left: replacing single letters would tell them.
func hide(s string, secrets []string) string {
	for _, x := range secrets {
		if len(x) >= 4 {
			s = strings.ReplaceAll(s, x, "[secret]")
		}
	}
	return s
}

// synonyms are what other tools call the same, by our name.
var synonyms = map[string][]string{
	"append":       {"insert"},
	"brokers":      {"bootstrap_servers", "bootstrap.servers", "seed_brokers", "servers", "hosts", "addresses"},
	"columns":      {"fields", "schema", "mapping"},
	"dead_letters": {"dlq", "errors", "deadletter"},
	"decode":       {"pipeline", "processors", "transforms", "format", "value_format"},
	"flow":         {"name", "id"},
	"group":        {"consumer_group", "group.id", "group_id"},
	"key":          {"pk_fields", "primary_key", "conflict_target", "keys"},
	"lanes":        {"workers", "threads", "parallelism", "tasks", "tasks_max", "tasks.max", "concurrency"},
	"path":         {"file", "filename", "database"},
	"pattern":      {"topics_regex", "topics.regex", "regex"},
	"postgres":     {"postgresql", "pg", "pgsql", "sql", "jdbc"},
	"records":      {"size", "count", "batch_size", "max_records"},
	"sasl":         {"auth", "login"},
	"sink":         {"output", "target", "destination", "to"},
	"source":       {"input", "from"},
	"sqlite":       {"sqlite3"},
	"start":        {"auto_offset_reset", "auto.offset.reset", "offset", "start_offset"},
	"tls":          {"ssl"},
	"upsert":       {"update", "replace", "merge"},
	"url":          {"dsn", "uri", "connection", "connection_string", "connection_url"},
	"username":     {"user", "login"},
	"wait":         {"linger", "linger_ms", "period", "flush_interval"},
}

// nearest returns the name most like word, or "" if none is near.
func nearest(word string, names []string) string {
	for _, n := range names {
		if slices.Contains(synonyms[n], strings.ToLower(word)) {
			return n
		}
	}
	best, name := len(word)+1, ""
	for _, n := range names {
		d := distance(strings.ToLower(word), strings.ToLower(n))
		if d < best && d <= max(1, max(len(word), len(n))/3) {
			best, name = d, n
		}
	}
	if name == "" && len(word) >= 4 {
		for _, n := range names { // brokers for bootstrap_brokers
			if strings.HasSuffix(word, "_"+n) || strings.HasSuffix(n, "_"+word) || strings.HasPrefix(n, word) || strings.HasPrefix(word, n+"_") {
				return n
			}
		}
	}
	return name
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, prev, cur [65]int
	for j := range len(b) + 1 {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev = prev, cur
	}
	return prev[len(b)]
}

// orList writes names as a person would.
func orList(names []string) string { return strings.Join(names, ", ") }
