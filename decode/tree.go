package decode

import (
	"encoding/binary"
	"slices"
)

// A tree is the paths of the columns that are read from one document.
//
// Objects learn the order of their keys: after every key the one that followed
// it last time is expected, and compared as a whole, quotes and colon included.
// A document in which the order is another costs a look-up per key that was
// not expected, and teaches the new order. What is learned is bounded (see
// maxLearned), because keys come from outside.
type tree struct {
	root *node
	// leaves are the nodes with a column, in the order of the columns.
	leaves []*node
	// nodes are all of them.
	nodes []*node
}

// visit says what is done with the value at a node.
type visit uint8

const (
	visitInner  visit = iota // look for the children
	visitScalar              // store it in the column
	visitList                // store its elements in the column
	visitShared              // several of the above: see node.targets
)

// node is one value in the document.
type node struct {
	visit visit
	// column is the one to store the value in, -1 if none.
	column int

	// What was found in the record with this generation.
	visited uint32 // there is such a value
	null    uint32 // it is null, or of no use
	err     error  // it does not fit; of the record that is being decoded

	// object is what to look for in an object; nil if nothing.
	object *object
	// elems are the elements to look for in an array, by index.
	elems []elem
	// targets are nodes for the same value, where several columns read it, or
	// a column and children do.
	targets []*node
	// children are the nodes below, in objects, arrays and targets.
	children []*node
	// first is the first of the columns below, for messages, and keyed the first
	// whose path goes on with a key that is no index, -1 if none does.
	first, keyed int
	// path is the keys that lead here, for messages.
	path []string
}

type elem struct {
	index int
	node  *node
}

// object is what to look for in an object.
type object struct {
	first *entry
	byKey map[string]*node
	// seen has the entries by the key's text in the document, with quotes.
	seen map[string]*entry
	// spare is the entry of a key that is not learned.
	spare entry
}

// entry is a key as it is written in documents.
type entry struct {
	text string // with quotes and colon
	// The first 16 bytes of text, 0 where it is shorter, and masks of what is
	// there: most keys are compared in two words.
	head0, head1, mask0, mask1 uint64
	// long says that text is longer than that.
	long bool
	node *node  // nil: its value is passed over
	next *entry // the key that came after it last time
}

// The number of keys per object that are learned beyond those that are looked
// for, and how long they may be.
const (
	maxLearned    = 64
	maxLearnedKey = 128
)

// newTree makes the tree for some of the columns, nil for none.
func newTree(p *plan, columns []int) *tree {
	if len(columns) == 0 {
		return nil
	}
	t := &tree{}
	t.root = t.node(nil)
	for _, i := range columns {
		t.add(p, i)
	}
	for _, n := range slices.Clone(t.nodes) {
		t.complete(n)
	}
	slices.SortFunc(t.leaves, func(a, b *node) int { return a.column - b.column })
	slices.SortStableFunc(t.nodes, func(a, b *node) int { return a.first - b.first })
	return t
}

func (t *tree) node(path []string) *node {
	n := &node{column: -1, first: -1, keyed: -1, path: path}
	t.nodes = append(t.nodes, n)
	return n
}

// add makes the nodes that lead to the column's value.
func (t *tree) add(p *plan, i int) {
	n, keys := t.root, p.paths[i]
	n.noteColumn(i)
	for depth, key := range keys {
		if n.keyed < 0 && index(key) < 0 {
			n.keyed = i
		}
		n = n.child(t, keys[:depth+1])
		n.noteColumn(i)
	}
	leaf := &node{visit: visitScalar, column: i, first: i, path: keys}
	if p.columns[i].list {
		leaf.visit = visitList
	}
	n.targets = append(n.targets, leaf)
}

func (n *node) noteColumn(i int) {
	if n.first < 0 {
		n.first = i
	}
}

// child returns the node below n for the last key of the path.
func (n *node) child(t *tree, path []string) *node {
	key := path[len(path)-1]
	if n.object == nil {
		n.object = &object{byKey: map[string]*node{}, seen: map[string]*entry{}}
	}
	if c := n.object.byKey[key]; c != nil {
		return c
	}
	c := t.node(path)
	n.object.byKey[key] = c
	if i := index(key); i >= 0 {
		n.elems = append(n.elems, elem{i, c})
		slices.SortFunc(n.elems, func(a, b elem) int { return a.index - b.index })
	}
	n.children = append(n.children, c)
	return c
}

// complete finishes n once all columns are added. It decides the visit, and
// expects the keys in the order of the columns until records teach another.
func (t *tree) complete(n *node) {
	if n.object != nil {
		slot := &n.object.first
		for _, c := range n.children {
			e := n.object.learn(quoteKey(c.path[len(c.path)-1]), c)
			*slot, slot = e, &e.next
		}
	}
	switch {
	case len(n.targets) == 0:
	case len(n.targets) == 1 && n.object == nil:
		n.column, n.visit, n.targets = n.first, n.targets[0].visit, nil
		t.leaves = append(t.leaves, n)
	default:
		n.visit = visitShared
		n.children = append(n.children, n.targets...)
		t.leaves = append(t.leaves, n.targets...)
		t.nodes = append(t.nodes, n.targets...)
	}
}

// learn remembers a key by its text in documents, quotes included.
func (o *object) learn(text string, n *node) *entry {
	e := &entry{text: text + ":", node: n}
	var head, mask [16]byte
	for i := range copy(head[:], e.text) {
		mask[i] = 0xff
	}
	e.head0, e.head1 = binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	e.mask0, e.mask1 = binary.LittleEndian.Uint64(mask[:]), binary.LittleEndian.Uint64(mask[8:])
	e.long = len(e.text) > len(head)
	o.seen[text] = e
	return e
}

// at reports whether the key, its colon and at least one byte more are at data[p].
func (e *entry) at(data []byte, p int) bool {
	if len(data)-p <= 16 || e.long {
		return e.longAt(data, p)
	}
	s := data[p : p+16]
	return (binary.LittleEndian.Uint64(s)^e.head0)&e.mask0|(binary.LittleEndian.Uint64(s[8:])^e.head1)&e.mask1 == 0
}

func (e *entry) longAt(data []byte, p int) bool {
	return len(data)-p > len(e.text) && string(data[p:p+len(e.text)]) == e.text
}

// quoteKey writes a key as documents usually do. Where they write it
// otherwise (\u0041), that is learned as another text of the same key.
func quoteKey(key string) string {
	b := []byte{'"'}
	for _, c := range []byte(key) {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(append(b, '"'))
}
