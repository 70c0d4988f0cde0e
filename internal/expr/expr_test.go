package expr

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// letter is a record that has failed.
func letter(value string) *Env {
	return &Env{
		Topic: "orders", Partition: 3, Offset: 41, Time: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		Key: []byte("k-1"), Value: []byte(value),
		Headers: []flow.Header{{Key: "tenant", Value: []byte("old")}, {Key: "tenant", Value: []byte("acme")}},
		Class:   "type", Column: "amount", Message: "want a number",
	}
}

func TestFilterSeesWhatARecordHas(t *testing.T) {
	for src, want := range map[string]bool{
		`class == 'type' && column == 'amount' && message.contains('number')`:                  true,
		`topic.startsWith('ord') && partition == 3 && offset > 40`:                             true,
		`time > timestamp('2026-01-31T11:00:00Z') && time < timestamp('2026-01-31T12:00:01Z')`: true,
		`key.matches('^k-[0-9]+$')`:                          true,
		`headers['tenant'] == 'acme'`:                        true,
		`headers.?region.orValue('eu') == 'eu'`:              true,
		`value.amount > 9`:                                   true,
		`value.amount > 9.5`:                                 true,
		`value.id == 9007199254740993`:                       true, // beyond what a float holds
		`value.id == 9007199254740992`:                       false,
		`value.big > 9223372036854775807u`:                   true,
		`value.items.exists(i, i.sku == 'b' && i.price < 2)`: true,
		`has(value.nothing)`:                                 false,
		`value.none == null`:                                 true,
		`value.flag`:                                         true,
		`value.name.lowerAscii() == 'ada'`:                   true,
		`value.amount * 100 == 1000`:                         true,
	} {
		f, err := NewFilter(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		e := letter(`{"amount":10,"id":9007199254740993,"big":18446744073709551615,"items":[{"sku":"a"},{"sku":"b","price":1.5}],"none":null,"flag":true,"name":"Ada"}`)
		if got, err := f.Match(e); got != want || err != nil {
			t.Errorf("%s: %v, %v", src, got, err)
		}
	}
}

func TestValueThatIsNoJSONIsText(t *testing.T) {
	for value, src := range map[string]string{
		"{'id': 1}":    `value.contains("'id'")`,
		`{"a":1} tail`: `value.endsWith('tail')`,
		"":             `value == ''`,
		`"quoted"`:     `value == 'quoted'`,
	} {
		f, err := NewFilter(src)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := f.Match(letter(value)); !ok || err != nil {
			t.Errorf("%s on %q: %v, %v", src, value, ok, err)
		}
	}
	f, err := NewFilter("value == null")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := f.Match(&Env{}); !ok || err != nil {
		t.Errorf("a tombstone: %v, %v", ok, err)
	}
}

func TestFilterThatCannotBeEvaluatedDoesNotMatchAndIsCounted(t *testing.T) {
	for _, src := range []string{
		`value.amonut > 1`, `value.amount.contains('x')`, `value.amount`,
		`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, [1,2,3,4,5,6,7,8,9,10].all(g, a+b+c+d+e+f+g+value.amount > 0)))))))`,
	} {
		f, err := NewFilter(src)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if ok, err := f.Match(letter(`{"amount":10}`)); ok || err == nil || !strings.Contains(err.Error(), "orders[3], offset 41") {
				t.Errorf("%s: %v, %v", src, ok, err)
			}
		}
		if n, first := f.Failures(); n != 2 || first == nil {
			t.Errorf("%s: %d failures, %v", src, n, first)
		}
	}
}

func TestWrongFilterIsRefusedWithItsPlace(t *testing.T) {
	for src, want := range map[string]string{
		`clas == 'type'`:    "the variables are topic,",
		`class == `:         "1:10",
		`key`:               "gives a string, not true or false",
		`class > 3`:         "no matching overload",
		`timestamp(3, 'x')`: "no matching overload",
	} {
		if _, err := NewFilter(src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", src, err)
		}
	}
}

func TestEditChangesWhatItNamesAndNothingElse(t *testing.T) {
	const before = `{ "amount" : "12.50", "id": 9007199254740993, "note":"a/b <c>", "items":[{"p":1},{"p":2}], "a.b": 1 }`
	for _, tt := range []struct {
		edits []string
		want  string
	}{
		{[]string{`amount=double(value.amount)`}, `{ "amount" : 12.5, "id": 9007199254740993, "note":"a/b <c>", "items":[{"p":1},{"p":2}], "a.b": 1 }`},
		{[]string{`items.1.p=value.items[1].p + 1`}, `{ "amount" : "12.50", "id": 9007199254740993, "note":"a/b <c>", "items":[{"p":1},{"p":3}], "a.b": 1 }`},
		{[]string{`id=value.id + 1`}, `{ "amount" : "12.50", "id": 9007199254740994, "note":"a/b <c>", "items":[{"p":1},{"p":2}], "a.b": 1 }`},
		{[]string{`a\.b=optional.none()`, `note=key + "<>"`}, `{ "amount" : "12.50", "id": 9007199254740993, "note":"k-1<>", "items":[{"p":1},{"p":2}] }`},
		{[]string{`items.-1={'p': value.id, 'at': time, 'l': [1u, 2.5, null]}`}, `{ "amount" : "12.50", "id": 9007199254740993, "note":"a/b <c>", "items":[{"p":1},{"p":2},{"at":"2026-01-31T12:00:00Z","l":[1,2.5,null],"p":9007199254740993}], "a.b": 1 }`},
		{[]string{`.={'id': 1}`, `id=value.id == 1`}, `{"id":true}`},
		{[]string{`.='text ' + key`}, `text k-1`},
		{[]string{`.={'days': {'20260131': 1}}`, `days.:20260131=2`}, `{"days":{"20260131":2}}`},
	} {
		ed, err := NewEdit(tt.edits)
		if err != nil {
			t.Errorf("%q: %v", tt.edits, err)
			continue
		}
		e := letter(before)
		got, err := ed.Apply(e)
		if err != nil || string(got) != tt.want {
			t.Errorf("%q: %v\ngot  %s\nwant %s", tt.edits, err, got, tt.want)
		}
		if string(e.Value) != before {
			t.Errorf("%q: the record itself was changed: %s", tt.edits, e.Value)
		}
	}
}

func TestEditRepairsAValueThatIsNoJSON(t *testing.T) {
	ed, err := NewEdit([]string{`.=value.replace("'", '"')`, `fixed=true`})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ed.Apply(letter(`{'id':1}`)); err != nil || string(got) != `{"id":1,"fixed":true}` {
		t.Errorf("%s, %v", got, err)
	}
	none, err := NewEdit([]string{`.=optional.none()`})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := none.Apply(letter(`{}`)); err != nil || got != nil {
		t.Errorf("a tombstone: %q, %v", got, err)
	}
}

func TestEditThatCannotBeAppliedNamesItself(t *testing.T) {
	for src, want := range map[string]string{
		`amount=int(value.amount)`: "the edit \"amount=int(value.amount)\"",
		`x=value.missing`:          "no such key",
		`x={1: 2}`:                 "names that are texts",
		`x=type(1)`:                "cannot be written as JSON",
		`x=1.0/0.0`:                "unsupported value",
	} {
		ed, err := NewEdit([]string{src})
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got, err := ed.Apply(letter(`{"amount":"x"}`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", src, got, err)
		}
	}
	ed, err := NewEdit([]string{`x=1`})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ed.Apply(letter(`not JSON`)); err == nil || !strings.Contains(err.Error(), "no JSON") {
		t.Errorf("an edit of a field of text: %v", err)
	}
	if got, err := ed.Apply(letter(`"text"`)); err == nil || !strings.Contains(err.Error(), "neither an object nor an array") {
		t.Errorf("an edit of a field of a JSON text: %s, %v", got, err)
	}
	for _, src := range []string{`amount`, `=1`, `a.*=1`, `a b=1`, `amount=nope(1)`, `amount=`, `.amount=1`, `a..b=1`, `a.=1`, `..=1`, `a.10000=1`, `a.99999999999999999999=1`} {
		if _, err := NewEdit([]string{src}); err == nil || !strings.Contains(err.Error(), src) {
			t.Errorf("%s: %v", src, err)
		}
	}
}
