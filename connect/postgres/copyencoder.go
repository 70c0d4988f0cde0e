package postgres

import (
	"fmt"
	"io"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// fieldOIDs are the types of a field as a table that create_table makes has them.
var fieldOIDs = map[string]uint32{
	"bool": oidBool, "bytea": oidBytea, "int2": oidInt2, "int4": oidInt4, "int8": oidInt8, "text": oidText,
	"float4": oidFloat4, "float8": oidFloat8, "numeric": oidNumeric, "date": oidDate, "timestamp": oidTimestamp,
	"timestamptz": oidTimestamptz, "uuid": oidUUID, "json": oidJSON, "jsonb": oidJSONB,
}

// CopyEncoder turns batches into the input of COPY … FROM STDIN (FORMAT binary),
// as the sink does, for programs that run COPY themselves. It is for one
// goroutine.
type CopyEncoder struct{ r copyReader }

// NewCopyEncoder makes an encoder for a table whose columns are the fields, in
// this order and of these types; numeric columns have no precision.
func NewCopyEncoder(fields []flow.Field) (*CopyEncoder, error) {
	columns := make([]column, len(fields))
	for i := range fields {
		f := &fields[i]
		base, list := strings.CutSuffix(f.Type, "[]")
		t := tableColumn{name: f.Name, typmod: -1, oid: fieldOIDs[base]}
		if list {
			t.elem = t.oid
		}
		var err error
		if columns[i], err = newColumn(i, f, &t); err != nil {
			return nil, fmt.Errorf("column %s of type %q cannot be encoded", quoteName(f.Name), f.Type)
		}
	}
	return &CopyEncoder{copyReader{enc: newRowEncoder(columns)}}, nil
}

// Encode returns the rows of b as a stream. Rows that cannot be encoded are
// rejected while it is read, and left out. It holds until the next call.
func (e *CopyEncoder) Encode(b *flow.Batch) io.Reader {
	e.r.enc.bind(b.Columns)
	e.r.resetAll(b)
	return &e.r
}
