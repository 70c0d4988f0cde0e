package postgres

import (
	"bytes"
	"io"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

func TestCopyEncoderSendsWhatTheSinkSends(t *testing.T) {
	fields, tab, batch := bench512(100)
	p, err := planOf(tab, fields, ModeAppend, nil)
	if err != nil {
		t.Fatal(err)
	}
	sink := copyReader{enc: newRowEncoder(p.columns)}
	sink.enc.bind(batch.Columns)
	sink.resetAll(batch)
	want, err := io.ReadAll(&sink)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewCopyEncoder(fields)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(e.Encode(batch))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d; %v", len(got), len(want), err)
	}
	if _, err := NewCopyEncoder([]flow.Field{{Name: "x", Type: "money", Kind: flow.KindInt64}}); err == nil {
		t.Fatal("a type without an encoder is accepted")
	}
}
