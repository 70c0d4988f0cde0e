package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func BenchmarkDecode(b *testing.B) {
	for _, d := range documents() {
		for _, c := range []struct {
			name    string
			decoder func() (decoderFunc, error)
			encode  bool
		}{
			{"penstock", d.penstockDecoder, false},
			{"penstock and encode", d.penstockCopy, false},
			{"fastjson and encode", d.fastjsonDecoder, true},
		} {
			b.Run(d.name+"/"+c.name, func(b *testing.B) {
				once, err := decodeLoop(&d, c.decoder, c.encode)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := once(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/decodeBatch, "ns/record")
			})
		}
	}
}

// Both decoders must do the same work, else comparing them proves nothing.
func TestDecodersAgree(t *testing.T) {
	for _, d := range documents() {
		t.Run(d.name, func(t *testing.T) {
			encoded := map[string][]byte{}
			for name, decoder := range map[string]func() (decoderFunc, error){"penstock": d.penstockDecoder, "fastjson": d.fastjsonDecoder} {
				run, err := decoder()
				if err != nil {
					t.Fatal(err)
				}
				b := d.batch()
				if err := run(b, func(i int) { encoded[name] = encodeRow(encoded[name], b.Columns, i) }); err != nil {
					t.Fatal(err)
				}
				if letters := b.DeadLetters(); len(letters) > 0 {
					t.Fatalf("%s: %d records refused, the first: %s", name, len(letters), letters[0].Message)
				}
			}
			if diff := cmp.Diff(encoded["fastjson"], encoded["penstock"]); diff != "" {
				t.Errorf("rows differ (-fastjson +penstock):\n%s", diff)
			}
		})
	}
}

// The COPY files of the limit and the rows of the flow must be the same bytes.
func TestCopyRowsAgree(t *testing.T) {
	d := documents()[0] // of the topic's records
	run, err := d.penstockDecoder()
	if err != nil {
		t.Fatal(err)
	}
	b := d.batch()
	if err := run(b, func(int) {}); err != nil {
		t.Fatal(err)
	}
	g := newGenerator()
	for i := range b.Records {
		r := g.Row(i)
		want := appendCopyRow(nil, []byte(r.Device), r.Seq, r.TS, r.Temp, []byte(r.Payload))
		if got := encodeRow(nil, b.Columns, i); string(got) != string(want) {
			t.Fatalf("record %d is encoded as\n%q, want\n%q", i, got, want)
		}
	}
}
