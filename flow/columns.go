package flow

// Kind is the physical kind of a column: which of Column's arrays is in use.
type Kind uint8

// The kinds. Strings of decimals and JSON are kept as text, because the sink
// turns them into its own wire form in one step.
const (
	KindBool      Kind = iota + 1 // Ints: 0 or 1
	KindInt64                     // Ints
	KindFloat64                   // Floats
	KindDecimal                   // Bytes: a JSON number, exactly as it was written
	KindString                    // Bytes: valid UTF-8 without U+0000
	KindBytes                     // Bytes
	KindTimestamp                 // Ints: microseconds since the Unix epoch
	KindDate                      // Ints: days since the Unix epoch
	KindJSON                      // Bytes: one valid JSON value
	KindList                      // Offsets into Elem
)

// Field declares one column before there are any rows: what a transform makes
// and a sink checks against its table, or creates the table from.
type Field struct {
	Name string
	// Type is the declared type: text, int2, int4, int8, float4, float8,
	// numeric, numeric(p,s), bool, timestamptz, timestamp, date, uuid, bytea,
	// json, jsonb, or one of them followed by [].
	Type string
	// Kind is the physical kind that Type is carried in.
	Kind Kind
	// Elem is the kind of a list's elements.
	Elem Kind
	// Required says that a row without the value is rejected.
	Required bool
}

// Column holds one column of a batch, in the manner of Arrow: one array for
// the kind, and a bitmap of nulls. Values at null rows are undefined.
type Column struct {
	Field
	// Nulls has bit i%64 of word i/64 set where row i is null.
	Nulls []uint64
	// Ints, Floats and Bytes: one of them is in use, by Kind, indexed by row.
	Ints   []int64
	Floats []float64
	// Bytes are views into the record or into memory that the batch owns.
	Bytes [][]byte
	// Offsets has rows+1 entries: the elements of row i are those of Elem from
	// Offsets[i] to Offsets[i+1].
	Offsets []int32
	// Elem is set for KindList.
	Elem *Column
}

// Null reports whether row i is null.
func (c *Column) Null(i int) bool { return c.Nulls[i>>6]&(1<<(i&63)) != 0 }

// SetNull marks row i as null.
func (c *Column) SetNull(i int) { c.Nulls[i>>6] |= 1 << (i & 63) }

// Columns are the typed columns of a batch. They are allocated once per lane
// buffer and reused: Reset keeps the memory.
type Columns struct {
	Cols []Column
	// Scratch is memory for values that are not views into a record (a string
	// with escapes, a default). Appending may move it: views into the old array
	// stay valid, because it is never written again before Reset.
	Scratch []byte
}

// NewColumns makes empty columns for the fields.
func NewColumns(fields []Field) *Columns {
	cs := &Columns{Cols: make([]Column, len(fields))}
	for i, f := range fields {
		cs.Cols[i].Field = f
		if f.Kind == KindList {
			cs.Cols[i].Elem = &Column{Field: Field{Name: f.Name, Kind: f.Elem}}
		}
	}
	return cs
}

// Reset makes room for n rows, all of them not null and with undefined
// values. Lists start empty: whoever fills a list appends to Elem and sets
// Offsets, beginning with Offsets[0] = 0.
func (cs *Columns) Reset(n int) {
	cs.Scratch = cs.Scratch[:0]
	for i := range cs.Cols {
		cs.Cols[i].reset(n)
	}
}

func (c *Column) reset(n int) {
	words := (n + 63) / 64
	c.Nulls = resize(c.Nulls, words)
	clear(c.Nulls)
	switch c.Kind {
	case KindBool, KindInt64, KindTimestamp, KindDate:
		c.Ints = resize(c.Ints, n)
	case KindFloat64:
		c.Floats = resize(c.Floats, n)
	case KindDecimal, KindString, KindBytes, KindJSON:
		c.Bytes = resize(c.Bytes, n)
	case KindList:
		c.Offsets = resize(c.Offsets, n+1)
		c.Offsets[0] = 0
		c.Elem.Nulls = c.Elem.Nulls[:0]
		c.Elem.Ints = c.Elem.Ints[:0]
		c.Elem.Floats = c.Elem.Floats[:0]
		c.Elem.Bytes = c.Elem.Bytes[:0]
	}
}

// release drops the views, which keep the records' memory alive.
func (cs *Columns) release() {
	for i := range cs.Cols {
		c := &cs.Cols[i]
		clear(c.Bytes[:cap(c.Bytes)])
		if c.Elem != nil {
			clear(c.Elem.Bytes[:cap(c.Elem.Bytes)])
		}
	}
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
