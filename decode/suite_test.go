package decode

import (
	"errors"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// suite are documents in the manner of JSONTestSuite: what a parser must accept
// ("" as class), and what it must refuse, with the class.
var suite = []struct{ doc, class string }{
	// Accepted: structure.
	{`{}`, ""},
	{`{"a":1}`, ""},
	{` {"a":1}`, ""},
	{"\t\n\r {\"a\":1} \t\n\r", ""},
	{`{ "a" : 1 , "b" : 2 }`, ""},
	{"{\n\t\"a\"\t:\r\n[\n]\n}", ""},
	{`{"a":1,"a":2}`, ""},
	{`{"a":{"b":{"c":{}}}}`, ""},
	{`{"":0}`, ""},
	{`{"a":[]}`, ""},
	{`{"a":[1,[2,[3,[]]],{}]}`, ""},
	{`{"a":[null,true,false]}`, ""},
	{`{"a":null}`, ""},
	{`{"x":[{"id": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}], "id": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, ""},
	{`{"a":[ ]}`, ""},
	{`{"a":[1 , 2]}`, ""},
	{strings.Repeat(`{"a":`, 511) + `{}` + strings.Repeat(`}`, 511), ""},
	{`{"a":` + strings.Repeat(`[`, 511) + strings.Repeat(`]`, 511) + `}`, ""},

	// Accepted: numbers.
	{`{"a":0}`, ""},
	{`{"a":-0}`, ""},
	{`{"a":-1}`, ""},
	{`{"a":0.0}`, ""},
	{`{"a":-0.0}`, ""},
	{`{"a":1.5}`, ""},
	{`{"a":1e1}`, ""},
	{`{"a":1E1}`, ""},
	{`{"a":1e+1}`, ""},
	{`{"a":1e-1}`, ""},
	{`{"a":1E-2}`, ""},
	{`{"a":0e1}`, ""},
	{`{"a":0e+1}`, ""},
	{`{"a":123.456e78}`, ""},
	{`{"a":123e65}`, ""},
	{`{"a":20e1}`, ""},
	{`{"a":1.234567890E+34}`, ""},
	{`{"a":0.000000000000000000000000000000000000000000000000000000000000000000000000000001}`, ""},
	{`{"a":123123123123123123123123123123}`, ""},
	{`{"a":-123123123123123123123123123123}`, ""},
	{`{"a":1e999999}`, ""},
	{`{"a":-1e-999999}`, ""},
	{`{"a":[-0, 0, 1]}`, ""},
	{`{"a":4 }`, ""},

	// Accepted: strings.
	{`{"a":""}`, ""},
	{`{"a":" "}`, ""},
	{`{"a":"\"\\\/\b\f\n\r\t"}`, ""},
	{`{"a":"\\u0000"}`, ""},
	{`{"a":"\u0000"}`, ""},
	{`{"a":"\u0060\u012a\u12AB"}`, ""},
	{`{"a":"\uD801\udc37"}`, ""},
	{`{"a":"\ud83d\ude39\ud83d\udc8d"}`, ""},
	{`{"a":"\uDBFF\uDFFF"}`, ""},
	{`{"a":"new\u00A0line"}`, ""},
	{`{"a":"\u2028\u2029"}`, ""},
	{"{\"a\":\"\u2028\u2029\"}", ""},
	{"{\"a\":\"\u007f\"}", ""},
	{`{"a":"€𝄞"}`, ""},
	{"{\"a\":\"\U0010ffff\"}", ""},
	{"{\"a\":\"\uffff\ufdd0\"}", ""},
	{"{\"a\":\"\ufffd\"}", ""},
	{`{"a":"\uFFFE"}`, ""},
	{`{"a":"/*comment*/ // {[]}"}`, ""},
	{`{"\u0061":1}`, ""},
	{`{"a\"b":1}`, ""},
	{`{"ключ":"значение"}`, ""},
	{`{"a":"` + strings.Repeat("x", 10000) + `"}`, ""},
	{`{"a":"` + strings.Repeat(`\n`, 1000) + `"}`, ""},
	{`{"a":"exactly thirty-two bytes of text"}`, ""},

	// Refused: structure.
	{``, classMalformed},
	{` `, classMalformed},
	{"\n\n", classMalformed},
	{`{`, classMalformed},
	{`}`, classMalformed},
	{`{]`, classMalformed},
	{`{}}`, classMalformed},
	{`{},`, classMalformed},
	{`{}{}`, classMalformed},
	{`{} x`, classMalformed},
	{`{"a":1}#`, classMalformed},
	{`{"a":1}//c`, classMalformed},
	{`{"a":1}/**/`, classMalformed},
	{`/**/{"a":1}`, classMalformed},
	{`{"a"/**/:1}`, classMalformed},
	{`{"a"`, classMalformed},
	{`{"a":`, classMalformed},
	{`{"a": `, classMalformed},
	{`{"a":1`, classMalformed},
	{`{"a":1 `, classMalformed},
	{`{"a":1,`, classMalformed},
	{`{"a":1,}`, classMalformed},
	{`{"a":1, }`, classMalformed},
	{`{"a":1,,"b":2}`, classMalformed},
	{`{,"a":1}`, classMalformed},
	{`{,}`, classMalformed},
	{`{"a" 1}`, classMalformed},
	{`{"a"}`, classMalformed},
	{`{"a",1}`, classMalformed},
	{`{"a"::1}`, classMalformed},
	{`{:1}`, classMalformed},
	{`{1:1}`, classMalformed},
	{`{a:1}`, classMalformed},
	{`{'a':1}`, classMalformed},
	{`{null:1}`, classMalformed},
	{`{"a":1 "b":2}`, classMalformed},
	{`{"a":1;"b":2}`, classMalformed},
	{`{"a":"x" "y"}`, classMalformed},
	{`{"a":"b",{"c":1}}`, classMalformed},
	{`{"a":(1)}`, classMalformed},
	{`{"a":<1>}`, classMalformed},
	{`{"a":[}`, classMalformed},
	{`{"a":[1}`, classMalformed},
	{`{"a":[1`, classMalformed},
	{`{"a":[1,`, classMalformed},
	{`{"a":[1,]}`, classMalformed},
	{`{"a":[,1]}`, classMalformed},
	{`{"a":[,]}`, classMalformed},
	{`{"a":[1,,2]}`, classMalformed},
	{`{"a":[1 2]}`, classMalformed},
	{`{"a":[1]]}`, classMalformed},
	{`{"a":["x"`, classMalformed},
	{`{"a":[1:2]}`, classMalformed},
	{`{"a":[*]}`, classMalformed},
	{`["a":1]`, classMalformed},
	{"{\"a\":\u00a01}", classMalformed},
	{"{\"a\":\v1}", classMalformed},
	{"{\"a\":\f1}", classMalformed},
	{"{\"a\":1}\x00", classMalformed},
	{"\x00{\"a\":1}", classMalformed},
	{"{\"a\":\x001}", classMalformed},
	{"{\"a\":1\x00}", classMalformed},
	{"\xef\xbb\xbf{}", classMalformed},
	{"\xef\xbb{}", classMalformed},
	{"\ufeff", classMalformed},
	{"{\x00\"\x00a\x00\"\x00:\x001\x00}\x00", classMalformed}, // UTF-16
	{"\xff\xfe{\x00}\x00", classMalformed},
	{"\u2060{}", classMalformed},
	{"{\xe5}", classMalformed},
	{"{\"a\":\xe5}", classMalformed},
	{strings.Repeat(`{"a":`, 512) + `{}` + strings.Repeat(`}`, 512), classMalformed},
	{`{"a":` + strings.Repeat(`[`, 512) + strings.Repeat(`]`, 512) + `}`, classMalformed},
	{strings.Repeat(`[`, 100000), classMalformed},
	{strings.Repeat(`{"":`, 100000), classMalformed},
	{strings.Repeat(`{"a":[`, 100000), classMalformed},

	// Refused: literals.
	{`{"a":tru}`, classMalformed},
	{`{"a":truth}`, classMalformed},
	{`{"a":True}`, classMalformed},
	{`{"a":TRUE}`, classMalformed},
	{`{"a":t}`, classMalformed},
	{`{"a":truee}`, classMalformed},
	{`{"a":fals}`, classMalformed},
	{`{"a":FALSE}`, classMalformed},
	{`{"a":nul}`, classMalformed},
	{`{"a":nulll}`, classMalformed},
	{`{"a":Null}`, classMalformed},
	{`{"a":None}`, classMalformed},
	{`{"a":undefined}`, classMalformed},
	{`{"a":NaN}`, classMalformed},
	{`{"a":Infinity}`, classMalformed},
	{`{"a":-Infinity}`, classMalformed},
	{`{"a":+Inf}`, classMalformed},
	{`{"a":x}`, classMalformed},
	{`{"a":tru`, classMalformed},
	{`{"a":n`, classMalformed},
	{`{"a":nul`, classMalformed},

	// Refused: numbers.
	{`{"a":-}`, classMalformed},
	{`{"a":--1}`, classMalformed},
	{`{"a":+1}`, classMalformed},
	{`{"a":++1}`, classMalformed},
	{`{"a":- 1}`, classMalformed},
	{`{"a":01}`, classMalformed},
	{`{"a":-01}`, classMalformed},
	{`{"a":00}`, classMalformed},
	{`{"a":012.5}`, classMalformed},
	{`{"a":1.}`, classMalformed},
	{`{"a":-1.}`, classMalformed},
	{`{"a":.5}`, classMalformed},
	{`{"a":-.5}`, classMalformed},
	{`{"a":.}`, classMalformed},
	{`{"a":1.e1}`, classMalformed},
	{`{"a":0.e1}`, classMalformed},
	{`{"a":.1e1}`, classMalformed},
	{`{"a":1e}`, classMalformed},
	{`{"a":1E}`, classMalformed},
	{`{"a":1e+}`, classMalformed},
	{`{"a":1E-}`, classMalformed},
	{`{"a":1ee1}`, classMalformed},
	{`{"a":1e1.5}`, classMalformed},
	{`{"a":1e 1}`, classMalformed},
	{`{"a":e1}`, classMalformed},
	{`{"a":1.2.3}`, classMalformed},
	{`{"a":1..2}`, classMalformed},
	{`{"a":1,000}`, classMalformed},
	{`{"a":1_000}`, classMalformed},
	{`{"a":1 000}`, classMalformed},
	{`{"a":0x1F}`, classMalformed},
	{`{"a":1a}`, classMalformed},
	{`{"a":1L}`, classMalformed},
	{`{"a":1+2}`, classMalformed},
	{`{"a":1e`, classMalformed},
	{`{"a":-`, classMalformed},
	{`{"a":1.`, classMalformed},
	{"{\"a\":\uff11}", classMalformed}, // a full-width digit
	{"{\"a\":1\xe5}", classMalformed},

	// Refused: strings.
	{`{"a":"}`, classMalformed},
	{`{"a":"x`, classMalformed},
	{`{"a":"\`, classMalformed},
	{`{"a":"\"`, classMalformed},
	{`{"a":"\"}`, classMalformed},
	{`{"a":'x'}`, classMalformed},
	{"{\"a\":`x`}", classMalformed},
	{`{"a":"\x"}`, classMalformed},
	{`{"a":"\a"}`, classMalformed},
	{`{"a":"\'"}`, classMalformed},
	{`{"a":"\0"}`, classMalformed},
	{`{"a":"\x41"}`, classMalformed},
	{`{"a":"\U0041"}`, classMalformed},
	{`{"a":"\u"}`, classMalformed},
	{`{"a":"\u1"}`, classMalformed},
	{`{"a":"\u00A"}`, classMalformed},
	{`{"a":"\u00G0"}`, classMalformed},
	{`{"a":"\u+123"}`, classMalformed},
	{`{"a":"\u 041"}`, classMalformed},
	{`{"a":"\u00`, classMalformed},
	{`{"a":"\uD800\u"}`, classMalformed},
	{`{"a":"\uD800\u1"}`, classMalformed},
	{"{\"a\":\"\\\u00e9\"}", classMalformed},
	{"{\"a\":\"\\\n\"}", classMalformed},
	{"{\"a\":\"\\\x00\"}", classMalformed},
	{"{\"a\":\"\n\"}", classMalformed},
	{"{\"a\":\"\t\"}", classMalformed},
	{"{\"a\":\"\r\"}", classMalformed},
	{"{\"a\":\"\x00\"}", classMalformed},
	{"{\"a\":\"\x1f\"}", classMalformed},
	{"{\"a\":\"0123456789012345678901234567890123456789\x01\"}", classMalformed},
	{"{\"a\x00\":1}", classMalformed},
	{"{\"a\n\":1}", classMalformed},
	{`{"\a":1}`, classMalformed},
	{`{"a`, classMalformed},
	{`{"a\`, classMalformed},

	// Refused: text that is no text.
	{`{"a":"\uD800"}`, classEncoding},
	{`{"a":"\uDC00"}`, classEncoding},
	{`{"a":"\uDFAA"}`, classEncoding},
	{`{"a":"\uD800x"}`, classEncoding},
	{`{"a":"\uD800\n"}`, classEncoding},
	{`{"a":"\uD800\u0041"}`, classEncoding},
	{`{"a":"\uD800\uD800"}`, classEncoding},
	{`{"a":"\uD888\u1234"}`, classEncoding},
	{`{"a":"\uDd1e\uD834"}`, classEncoding},
	{`{"\uD800":1}`, classEncoding},
	{`{"b":["\uD800"]}`, classEncoding},
	{"{\"a\":\"\xff\"}", classEncoding},
	{"{\"a\":\"\x80\"}", classEncoding},
	{"{\"a\":\"\xe5\"}", classEncoding},
	{"{\"a\":\"\xc0\xaf\"}", classEncoding},                 // overlong
	{"{\"a\":\"\xe0\x80\x80\"}", classEncoding},             // overlong
	{"{\"a\":\"\xf0\x80\x80\x80\"}", classEncoding},         // overlong
	{"{\"a\":\"\xfc\x80\x80\x80\x80\x80\"}", classEncoding}, // six bytes
	{"{\"a\":\"\xed\xa0\x80\"}", classEncoding},             // a surrogate
	{"{\"a\":\"\xf4\x90\x80\x80\"}", classEncoding},         // above U+10FFFF
	{"{\"a\":\"\xe2\x82\"}", classEncoding},                 // cut off
	{"{\"a\":\"0123456789012345678901234567890123456789\xff\"}", classEncoding},
	{"{\"a\":\"caf\xe9\"}", classEncoding}, // Latin-1
	{"{\"\xff\":1}", classEncoding},
	{"{\"b\":{\"c\":[\"\xff\"]}}", classEncoding},
}

// TestSuite reads every document three ways: for a column that takes a value as it is,
// for one that is not there, so that all is passed over, and as a key.
func TestSuite(t *testing.T) {
	t.Parallel()
	accept, refuse := 0, 0
	plans := map[string][]Column{
		"read":   {{Name: "a", Type: "json"}},
		"passed": {{Name: "elsewhere", Type: "text"}},
		"key":    {{Name: "a", Type: "json", From: "key", Path: "$"}},
	}
	for _, c := range suite {
		if c.class == "" {
			accept++
		} else {
			refuse++
		}
		for name, columns := range plans {
			got := ""
			rec := flow.Record{Value: []byte(c.doc)}
			if name == "key" {
				rec.Key = rec.Value
			}
			if b := process(t, columns, rec); b.Rejected(0) {
				got = classOf(t, b)
			}
			if got != c.class {
				t.Errorf("%s: %.60q: class %q, want %q", name, c.doc, got, c.class)
			}
		}
	}
	if accept < 50 || refuse < 150 {
		t.Errorf("the suite has %d documents to accept and %d to refuse", accept, refuse)
	}
}

// process decodes records of one partition, made for the test.
func process(tb testing.TB, columns []Column, records ...flow.Record) *flow.Batch {
	tb.Helper()
	j, err := NewJSON(JSONConfig{Columns: columns})
	if err != nil {
		tb.Fatal(err)
	}
	return processWith(tb, j, records...)
}

func processWith(tb testing.TB, j *JSON, records ...flow.Record) *flow.Batch {
	tb.Helper()
	b := flow.NewBatch(records, []flow.Part{{Partition: flow.Partition{Topic: "telemetry", ID: 7}, End: len(records)}})
	if err := j.Process(tb.Context(), b); err != nil {
		tb.Fatal(err)
	}
	return b
}

// classOf is the class of the only rejected record.
func classOf(tb testing.TB, b *flow.Batch) string {
	tb.Helper()
	dead := b.DeadLetters()
	if len(dead) != 1 {
		tb.Fatalf("%d dead letters, want 1", len(dead))
	}
	if dead[0].Stage != flow.StageDecode {
		tb.Errorf("stage %s, want decode", dead[0].Stage)
	}
	return dead[0].Class
}

// recordError finds the typed error in err.
func recordError(tb testing.TB, err error) *flow.RecordError {
	tb.Helper()
	var e *flow.RecordError
	if !errors.As(err, &e) {
		tb.Fatalf("%v is no *flow.RecordError", err)
	}
	return e
}
