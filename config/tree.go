package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a flow file.
const (
	maxFileSize = 1 << 20
	maxDepth    = 32
	// maxTokens bounds the parser's time, which grows with the square of them.
	// A column in its long form has about 20.
	maxTokens = 20_000
)

type nodeKind uint8

const (
	nullNode nodeKind = iota
	scalarNode
	mappingNode
	sequenceNode
	// unknownNode is a scalar whose interpolation failed, which is reported.
	unknownNode
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "a single value", "a mapping", "a list", "nothing known"}[k]
}

// place is where something was written: in the file, or, where origin is set, in
// a flag or an environment variable.
type place struct {
	origin       string
	line, column int
}

// node is a YAML value with its place. It is all that the rest of the package
// sees of YAML.
type node struct {
	kind nodeKind
	at   place
	// end is where the next token starts, for masking.
	end place
	// text is a scalar's value, raw the same before interpolation.
	text, raw string
	// plain says that a scalar was written without quotes.
	plain bool
	// computed says that text comes from interpolation, a flag or a variable.
	computed bool
	// public says that the scalar may be shown: it was recognised as the
	// value of a field that is not secret.
	public bool
	fields []entry
	items  []*node
}

// entry is one key of a mapping.
type entry struct {
	key   string
	at    place
	value *node
}

func (n *node) field(key string) *entry {
	for i := range n.fields {
		if n.fields[i].key == key {
			return &n.fields[i]
		}
	}
	return nil
}

// scalars calls f for each scalar below n, whether it is known or not.
func (n *node) scalars(f func(*node)) {
	if n.kind == scalarNode || n.kind == unknownNode {
		f(n)
	}
	for _, e := range n.fields {
		e.value.scalars(f)
	}
	for _, i := range n.items {
		i.scalars(f)
	}
}

// syntaxError is a finding that makes the file unreadable.
type syntaxError struct {
	at        place
	msg, hint string
}

func (e *syntaxError) Error() string { return e.msg }

func syntaxErrorf(at place, format string, args ...any) error {
	return &syntaxError{at: at, msg: fmt.Sprintf(format, args...)}
}

// notYAML is a finding of the scanner or the parser, in words that help.
func notYAML(at place, said string) error {
	e := &syntaxError{at: at, msg: "this is not YAML: " + said}
	for _, known := range []struct{ said, msg, hint string }{
		{"cannot start any token", "a tab begins this line", "YAML is indented with spaces"},
		{"value is not allowed in this context", "this line does not fit to the lines above", "check its indentation, and whether a line above ends in a value that should be a section"},
		{"non-map value is specified", "this is no field: there is no colon", "write name: value, with a space behind the colon"},
		{"end character of double-quoted", "the text that begins here has no closing double quote", ""},
		{"end character of single-quoted", "the text that begins here has no closing single quote", ""},
		{"sequence end token ']' not found", "the list that begins here is not closed", "write ] at its end"},
		{"mapping end token '}'", "the mapping that begins here is not closed", "write } at its end"},
		{"',' or ']' must be specified", "a list that was opened with [ above is not closed", "write ] at its end, and commas between its elements"},
		{"',' or '}' must be specified", "a mapping that was opened with { above is not closed", "write } at its end, and commas between its fields"},
	} {
		if strings.Contains(said, known.said) {
			e.msg, e.hint = "this is not YAML: "+known.msg, known.hint
			break
		}
	}
	return e
}

// parse reads one YAML document. Errors are *syntaxError.
func parse(data []byte) (root *node, err error) {
	start := place{line: 1, column: 1}
	if len(data) > maxFileSize {
		return nil, syntaxErrorf(start, "the file has %d bytes; a flow file has at most %d", len(data), maxFileSize)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if at, ok := badText(data); !ok {
		return nil, syntaxErrorf(at, "the file is not text in UTF-8, or holds control characters")
	}
	// The parser is somebody else's and gets what anybody wrote.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, syntaxErrorf(start, "the file cannot be read as YAML; remove parts of it to find the one at fault")
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(joinPlain(tokens), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var se *yaml.SyntaxError
		if errors.As(err, &se) && se.Token != nil {
			return nil, notYAML(placeOf(se.Token), se.Message)
		}
		return nil, syntaxErrorf(start, "this is not YAML")
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return nil, syntaxErrorf(placeOf(d.Body.GetToken()), "a second document; a flow file holds one flow")
		}
		body = d.Body
	}
	if body == nil {
		return &node{kind: mappingNode, at: start, end: start}, nil
	}
	return convert(body, 0)
}

// badText returns the place of the first byte that is not UTF-8 text.
func badText(data []byte) (place, bool) {
	at := place{line: 1, column: 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f {
			return at, false
		}
		data = data[n:]
		at.column++
		if r == '\n' {
			at.line++
			at.column = 1
		}
	}
	return at, true
}

// checkTokens bounds what the recursive parser is given, and refuses the parts of
// YAML that a flow file has no use for.
func checkTokens(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return syntaxErrorf(placeOf(tokens[maxTokens]), "the file is too large: it has more than %d names, values and signs", maxTokens)
	}
	var flowDepth, dashes, line int
	var indents []int
	for _, t := range tokens {
		if t.Position == nil {
			continue
		}
		at := placeOf(t)
		switch t.Type { //nolint:exhaustive // the others are ordinary
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return syntaxErrorf(at, "anchors and aliases (&, *, <<) are not supported in flow files; write the value out")
		case token.TagType:
			return syntaxErrorf(at, "tags (!) are not supported in flow files; put the value in quotes if it is meant as text")
		case token.DirectiveType:
			return syntaxErrorf(at, "directives (%%) are not supported in flow files")
		case token.MappingKeyType:
			return syntaxErrorf(at, "complex keys (?) are not supported in flow files")
		case token.MappingStartType, token.SequenceStartType:
			flowDepth++
		case token.MappingEndType, token.SequenceEndType:
			flowDepth = max(0, flowDepth-1)
		case token.InvalidType:
			msg := t.Error
			if msg == "" {
				msg = "unexpected characters"
			}
			return notYAML(at, msg)
		}
		if at.line != line {
			line, dashes = at.line, 0
			for len(indents) > 0 && indents[len(indents)-1] >= at.column {
				indents = indents[:len(indents)-1]
			}
			indents = append(indents, at.column)
		}
		if t.Type == token.SequenceEntryType {
			dashes++
		}
		if flowDepth+dashes+len(indents) > maxDepth+1 {
			return syntaxErrorf(at, "the nesting is deeper than %d levels", maxDepth)
		}
	}
	return nil
}

// joinPlain puts plain scalars of a list together again that the scanner takes
// apart inside { }: there, too, a colon that no space follows is part of the scalar
// ({brokers: [localhost:9092]}).
func joinPlain(tokens token.Tokens) token.Tokens {
	out := make(token.Tokens, 0, len(tokens))
	var open []token.Type // the brackets around
	for _, t := range tokens {
		switch t.Type { //nolint:exhaustive // the others open and close nothing
		case token.MappingStartType, token.SequenceStartType:
			open = append(open, t.Type)
		case token.MappingEndType, token.SequenceEndType:
			open = open[:max(0, len(open)-1)]
		}
		n := len(out)
		if n == 0 || len(open) == 0 || open[len(open)-1] != token.SequenceStartType || !follows(out[n-1], t) ||
			!plainScalar(t) || out[n-1].Type != token.MappingValueType {
			out = append(out, t)
			continue
		}
		first := out[n-1] // the colon, or what stands before it
		value, origin := ":"+t.Value, out[n-1].Origin+t.Origin
		out = out[:n-1]
		if n > 1 && plainScalar(out[n-2]) && follows(out[n-2], first) {
			first = out[n-2]
			value, origin = first.Value+value, first.Origin+origin
			out = out[:n-2]
		}
		out = append(out, token.String(value, origin, first.Position))
	}
	for i, t := range out {
		t.Prev, t.Next = nil, nil
		if i > 0 {
			t.Prev, out[i-1].Next = out[i-1], t
		}
	}
	return out
}

func plainScalar(t *token.Token) bool {
	return t.CharacterType == token.CharacterTypeMiscellaneous && t.Indicator == token.NotIndicator
}

// follows says that b stands right behind a.
func follows(a, b *token.Token) bool {
	return a.Position != nil && b.Position != nil && a.Position.Line == b.Position.Line &&
		a.Position.Column+utf8.RuneCountInString(a.Value) == b.Position.Column
}

// placeOf is never without a line: some tokens of an empty file have none.
func placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{line: 1, column: 1}
	}
	return place{line: max(1, t.Position.Line), column: max(1, t.Position.Column)}
}

// convert makes our nodes of the parser's.
func convert(n ast.Node, depth int) (*node, error) {
	tok := n.GetToken()
	out := &node{at: placeOf(tok)}
	if tok != nil && tok.Next != nil {
		out.end = placeOf(tok.Next)
	} else {
		out.end = place{line: maxFileSize} // the last token hides all that follows
	}
	if depth > maxDepth {
		return nil, syntaxErrorf(out.at, "the nesting is deeper than %d levels", maxDepth)
	}
	scalar := func(text string, plain bool) {
		out.kind, out.text, out.raw, out.plain = scalarNode, text, text, plain
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return out, nil
	case *ast.StringNode:
		plain := tok.Type != token.SingleQuoteType && tok.Type != token.DoubleQuoteType
		scalar(n.Value, plain)
	case *ast.LiteralNode:
		scalar(n.Value.Value, false)
		if next := n.Value.GetToken(); next != nil && next.Next != nil {
			out.end = placeOf(next.Next)
		} else {
			out.end = place{line: maxFileSize}
		}
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		scalar(strings.TrimSpace(tok.Value), true)
	case *ast.MappingNode:
		out.kind = mappingNode
		for _, v := range n.Values {
			if err := out.addEntry(v, depth); err != nil {
				return nil, err
			}
		}
		if len(out.fields) > 0 && !n.IsFlowStyle {
			out.at = out.fields[0].at
		}
	case *ast.MappingValueNode:
		out.kind = mappingNode
		if err := out.addEntry(n, depth); err != nil {
			return nil, err
		}
		out.at = out.fields[0].at
	case *ast.SequenceNode:
		out.kind = sequenceNode
		for _, v := range n.Values {
			item, err := convert(v, depth+1)
			if err != nil {
				return nil, err
			}
			out.items = append(out.items, item)
		}
	default:
		return nil, syntaxErrorf(out.at, "this part of YAML is not supported in flow files")
	}
	return out, nil
}

func (n *node) addEntry(v *ast.MappingValueNode, depth int) error {
	key := v.Key.GetToken()
	at := placeOf(key)
	switch v.Key.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
	default:
		return syntaxErrorf(at, "this cannot be the name of a field")
	}
	if v.Value == nil {
		n.fields = append(n.fields, entry{key.Value, at, &node{at: at, end: at}})
		return nil
	}
	value, err := convert(v.Value, depth+1)
	if err != nil {
		return err
	}
	n.fields = append(n.fields, entry{strings.TrimSpace(key.Value), at, value})
	return nil
}
