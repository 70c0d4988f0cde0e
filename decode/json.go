package decode

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// JSON decodes records whose values (and keys, if columns ask for it) are JSON
// documents. It is a flow.Transform and a flow.Schemer. One goroutine at a time
// may use it: make one per lane.
type JSON struct {
	rows
	plan  *plan
	value *tree // nil if no column is read from it
	key   *tree

	// generation numbers the records, so that nothing must be cleared between
	// them: a node was visited if it has this number.
	generation uint32
	row        int
	found      int // leaves that have a value
	misfits    int // nodes with an error

	// topics are names of topics as bytes, for columns that hold them.
	topics map[string][]byte
}

var (
	_ flow.Transform = (*JSON)(nil)
	_ flow.Schemer   = (*JSON)(nil)
)

// NewJSON compiles the columns. It fails where Validate does.
func NewJSON(cfg JSONConfig) (*JSON, error) {
	p, err := compile(cfg.Columns)
	if err != nil {
		return nil, fmt.Errorf("decode json: %w", err)
	}
	return &JSON{plan: p, value: newTree(p, p.inValue), key: newTree(p, p.inKey), topics: map[string][]byte{}}, nil
}

// Fields are the columns, in the configuration's order.
func (j *JSON) Fields() []flow.Field { return j.plan.fields }

// Process fills b.Columns, which it makes if there are none, and rejects the
// records that do not fit. It returns nil.
func (j *JSON) Process(_ context.Context, b *flow.Batch) error {
	if b.Columns == nil || len(b.Columns.Cols) != len(j.plan.fields) {
		b.Columns = flow.NewColumns(j.plan.fields)
	}
	b.Columns.Reset(len(b.Records))
	j.cols = b.Columns
	for i := range b.Records {
		j.row = i
		if !b.Rejected(i) {
			if err := j.record(b, &b.Records[i]); err != nil {
				j.drop()
				b.Reject(i, flow.StageDecode, err)
			}
		} else {
			j.drop()
		}
		for _, k := range j.plan.lists {
			col := &j.cols.Cols[k]
			col.Offsets[i+1] = elemCount(col.Elem)
		}
	}
	j.cols = nil
	return nil
}

// record decodes one record into the current row.
func (j *JSON) record(b *flow.Batch, rec *flow.Record) error {
	if j.generation++; j.generation == 0 {
		j.value.forgetAll()
		j.key.forgetAll()
		j.generation = 1
	}
	if j.value != nil {
		if rec.Value != nil {
			if err := j.document(j.value, rec.Value, "value"); err != nil {
				return err
			}
		} else {
			for _, n := range j.value.leaves {
				j.setNull(n.column)
			}
		}
	}
	if j.key != nil {
		if rec.Key != nil {
			if err := j.document(j.key, rec.Key, "key"); err != nil {
				return err
			}
		} else if err := j.absents(j.key); err != nil {
			return err
		}
	}
	for _, k := range j.plan.parts {
		if err := j.part(k, b, rec); err != nil {
			return err
		}
	}
	return nil
}

// document decodes one document into the columns of its tree.
func (j *JSON) document(t *tree, data []byte, part string) error {
	j.found, j.misfits = 0, 0
	p := 0
	if len(data) == 0 || data[0] <= ' ' {
		p = skipSpace(data, 0)
	}
	if p == len(data) {
		j.unexpected(data, p, "a value")
	} else if p = j.visit(data, p, t.root, 0); p >= 0 && p != len(data) {
		j.end(data, p)
	}
	if j.err != nil {
		_ = t.takeError() // what is wrong with the document matters more
		err := j.err.in(part)
		j.err = nil
		return err
	}
	if j.misfits > 0 {
		return t.takeError()
	}
	if j.found == len(t.leaves) {
		return nil
	}
	return j.absents(t)
}

// visit does with the value at data[p] what the node says and returns the
// value's end, or refused. There is a byte at p.
func (j *JSON) visit(data []byte, p int, n *node, depth int) int {
	if n.visited == j.generation {
		j.forget(n) // the key came before; the last wins
	}
	n.visited = j.generation
	var end int
	switch n.visit {
	case visitScalar:
		end = j.scalar(&j.plan.columns[n.column], &j.cols.Cols[n.column], j.row, data, p, depth)
	case visitList:
		end = j.list(&j.plan.columns[n.column], &j.cols.Cols[n.column], j.row, data, p, depth)
	case visitShared:
		return j.visitShared(data, p, n, depth)
	default:
		return j.visitInner(data, p, n, depth)
	}
	if end >= 0 {
		j.found++
		return end
	}
	if end == refused {
		return refused
	}
	return j.visitMisfit(data, p, n, depth)
}

// visitMisfit passes a value that its column could not take: null, or an error.
func (j *JSON) visitMisfit(data []byte, p int, n *node, depth int) int {
	f, at := j.fault, j.at
	end := j.skip(data, p, depth)
	if end < 0 {
		return end
	}
	n.null = j.generation
	if data[p] != 'n' {
		found := data[at:end]
		if at != p { // an element: its own end
			found = data[at:j.skip(data, at, depth)]
		}
		n.err = j.plan.columns[n.column].faultError(f, found, at)
		j.misfits++
	}
	return end
}

// visitShared lets several nodes have the value.
func (j *JSON) visitShared(data []byte, p int, n *node, depth int) int {
	end := j.skip(data, p, depth)
	if end < 0 {
		return end
	}
	for _, t := range n.targets {
		j.visit(data, p, t, depth)
	}
	if n.object != nil {
		j.visitInner(data, p, n, depth)
	}
	return end
}

// visitInner looks for the node's children in the value.
func (j *JSON) visitInner(data []byte, p int, n *node, depth int) int {
	var end int
	switch data[p] {
	case '{':
		return j.visitObject(data, p+1, n.object, depth+1)
	case '[':
		end = j.visitArray(data, p+1, n.elems, depth+1)
		if n.keyed < 0 {
			return end
		}
	default:
		end = j.skip(data, p, depth)
	}
	// Null has no children, but a whole document that is null is no object.
	if end < 0 || data[p] == 'n' && (len(n.path) > 0 || n.visit == visitShared) {
		return end
	}
	first := n.first
	if data[p] == '[' {
		first = n.keyed
	}
	c := &j.plan.columns[first]
	what := "the " + c.part()
	if len(n.path) > 0 {
		what = strconv.Quote(strings.Join(n.path, ".")) + " in " + what
	}
	n.err = &flow.RecordError{Class: classType, Column: c.Name, Err: fmt.Errorf(
		"found %s %s, byte %d: %s is %s, not an object", excerpt(data[p:end], maxExcerpt), c.where(), p, what, kindOf(data[p:]))}
	j.misfits++
	return end
}

// visitObject looks for keys in the rest of an object, from after its brace.
func (j *JSON) visitObject(data []byte, p int, o *object, depth int) int {
	if depth > maxDepth {
		return j.tooDeep(p)
	}
	if p < len(data) && data[p] <= ' ' {
		p = skipSpace(data, p)
	}
	if p < len(data) && data[p] == '}' {
		return p + 1
	}
	slot := &o.first
	for {
		e := *slot
		if e != nil && e.at(data, p) {
			p += len(e.text)
		} else if e, p = j.otherKey(data, p, o, slot); p < 0 {
			return p
		}
		slot = &e.next
		if data[p] <= ' ' {
			if p = skipSpace(data, p); p == len(data) {
				return j.unexpected(data, p, "a value")
			}
		}
		if e.node == nil {
			p = j.skip(data, p, depth)
		} else {
			p = j.visit(data, p, e.node, depth)
		}
		if p < 0 {
			return p
		}
		if p < len(data) && data[p] <= ' ' {
			p = skipSpace(data, p)
		}
		switch {
		case p < len(data) && data[p] == ',':
			if p++; p < len(data) && data[p] <= ' ' {
				p = skipSpace(data, p)
			}
		case p < len(data) && data[p] == '}':
			return p + 1
		default:
			return j.unexpected(data, p, "a comma or } after a value")
		}
	}
}

// otherKey finds the entry of the key at data[p], which is not the one that
// was expected in slot, and returns where its value begins; there is a byte.
func (j *JSON) otherKey(data []byte, p int, o *object, slot **entry) (e *entry, value int) {
	// Most often the expected key is one that this record does not have.
	if e = *slot; e != nil && e.next != nil {
		if e = e.next; e.at(data, p) {
			return e, p + len(e.text)
		}
	}
	if p >= len(data) || data[p] != '"' {
		return nil, j.unexpected(data, p, "a key in double quotes")
	}
	end := j.skipString(data, p+1)
	if end < 0 {
		return nil, end
	}
	text := data[p:end]
	if p = skipSpace(data, end); p >= len(data) || data[p] != ':' {
		return nil, j.unexpected(data, p, "a colon after the key")
	}
	if p++; p >= len(data) {
		return nil, j.unexpected(data, p, "a value")
	}
	if e = o.seen[string(text)]; e != nil {
		*slot = e
		return e, p
	}
	return o.newKey(text, slot, &j.cols.Scratch), p
}

// newKey returns the entry of a key whose text has not been seen before.
func (o *object) newKey(text []byte, slot **entry, scratch *[]byte) *entry {
	start := len(*scratch)
	*scratch = unescape(*scratch, text[1:len(text)-1])
	n := o.byKey[string((*scratch)[start:])]
	*scratch = (*scratch)[:start]
	if len(o.seen) >= len(o.byKey)+maxLearned || len(text) > maxLearnedKey {
		o.spare = entry{node: n}
		return &o.spare
	}
	e := o.learn(string(text), n)
	*slot = e
	return e
}

// visitArray looks for elements in the rest of an array, from after its bracket.
func (j *JSON) visitArray(data []byte, p int, elems []elem, depth int) int {
	if depth > maxDepth {
		return j.tooDeep(p)
	}
	if p = skipSpace(data, p); p < len(data) && data[p] == ']' {
		return p + 1
	}
	for i := 0; ; i++ {
		if len(elems) > 0 && elems[0].index == i && p < len(data) {
			p = j.visit(data, p, elems[0].node, depth)
			elems = elems[1:]
		} else {
			p = j.skip(data, p, depth)
		}
		if p < 0 {
			return p
		}
		p = skipSpace(data, p)
		switch {
		case p < len(data) && data[p] == ',':
			p = skipSpace(data, p+1)
		case p < len(data) && data[p] == ']':
			return p + 1
		default:
			return j.unexpected(data, p, "a comma or ] after a value")
		}
	}
}

// absents fills the columns that have no value: with the default, or null.
func (j *JSON) absents(t *tree) error {
	for _, n := range t.leaves {
		if n.visited == j.generation && n.null != j.generation {
			continue
		}
		if err := j.absent(n.column, n.visited == j.generation); err != nil {
			return err
		}
	}
	return nil
}

// absent gives the row of a column without a value its default, or null.
func (j *JSON) absent(k int, null bool) error {
	c := &j.plan.columns[k]
	if c.fallback == nil {
		if c.Required {
			return c.absentError(null)
		}
		j.setNull(k)
		return nil
	}
	col := &j.cols.Cols[k]
	switch c.Kind {
	case flow.KindFloat64:
		col.Floats[j.row] = c.fallback.Floats[0]
	case flow.KindBool, flow.KindInt64, flow.KindTimestamp, flow.KindDate:
		col.Ints[j.row] = c.fallback.Ints[0]
	case flow.KindDecimal, flow.KindString, flow.KindBytes, flow.KindJSON:
		col.Bytes[j.row] = c.fallback.Bytes[0]
	case flow.KindList:
		truncate(col.Elem, int(col.Offsets[j.row]))
		for i := range int(c.fallback.Offsets[1]) {
			appendElem(col.Elem, c.fallback.Elem, i)
		}
	}
	return nil
}

func appendElem(dst, src *flow.Column, i int) {
	k := grow(dst)
	switch {
	case src.Null(i):
		dst.SetNull(k)
	case src.Ints != nil:
		dst.Ints[k] = src.Ints[i]
	case src.Floats != nil:
		dst.Floats[k] = src.Floats[i]
	default:
		dst.Bytes[k] = src.Bytes[i]
	}
}

// setNull makes the row of column k null, and lets go of what it held.
func (j *JSON) setNull(k int) {
	col := &j.cols.Cols[k]
	col.SetNull(j.row)
	if col.Kind == flow.KindList {
		truncate(col.Elem, int(col.Offsets[j.row]))
	} else if col.Bytes != nil {
		col.Bytes[j.row] = nil
	}
}

// drop makes the current row, which is rejected, null in all columns.
func (j *JSON) drop() {
	for k := range j.cols.Cols {
		j.setNull(k)
	}
}

// forget takes back what was found at n in this record.
func (j *JSON) forget(n *node) {
	if n.visited != j.generation {
		return
	}
	n.visited = 0
	switch {
	case n.err != nil:
		n.err = nil
		j.misfits--
	case n.column >= 0 && n.null != j.generation:
		j.found--
	}
	n.null = 0
	for _, c := range n.children {
		j.forget(c)
	}
}

// takeError returns the error of the record's first column that has one, and
// clears all.
func (t *tree) takeError() (first error) {
	for _, n := range t.nodes {
		if first == nil {
			first = n.err
		}
		n.err = nil
	}
	return first
}

// forgetAll makes all nodes as new, when the generations begin again.
func (t *tree) forgetAll() {
	if t == nil {
		return
	}
	for _, n := range t.nodes {
		n.visited, n.null = 0, 0
	}
}
