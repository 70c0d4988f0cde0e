package connect

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type column struct {
	Name string `yaml:"name"`
	Type string `yaml:"type" doc:"The type." enum:"text,int8" required:"true"`
	Path string `yaml:"path" doc:"Where."`
}

type tlsConfig struct {
	File    string        `yaml:"file" doc:"A file."`
	Timeout time.Duration `yaml:"timeout" default:"3s" doc:"A time."`
}

type Common struct {
	Brokers []string `yaml:"brokers" required:"true" doc:"Brokers."`
}

type example struct {
	Common
	Start    string            `yaml:"start" default:"earliest" enum:"earliest,latest" doc:"Where to start."`
	Timeout  time.Duration     `yaml:"timeout" default:"30s" doc:"A time."`
	Buffer   Bytes             `yaml:"buffer" default:"4MiB" doc:"A size."`
	Password Secret            `yaml:"password" doc:"A secret."`
	URL      string            `yaml:"url" secret:"true" doc:"An address."`
	N        int32             `yaml:"n" default:"5" doc:"A number."`
	Ratio    float64           `yaml:"ratio" default:"0.5" doc:"A ratio."`
	On       bool              `yaml:"on" doc:"A switch."`
	Labels   map[string]string `yaml:"labels" doc:"Labels."`
	Names    []string          `yaml:"names" default:"a,b" doc:"Names."`
	TLS      *tlsConfig        `yaml:"tls" doc:"TLS."`
	Inner    tlsConfig         `yaml:"inner" doc:"Inner."`
	Columns  []column          `yaml:"columns" keyed:"Name" short:"Type" doc:"Columns."`
	Hook     func()            `yaml:"-"`
}

func TestSpecReadsTheTags(t *testing.T) {
	spec, err := SpecOf[example]()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"brokers", "start", "timeout", "buffer", "password", "url", "n", "ratio", "on", "labels", "names",
		"tls", "inner", "columns",
	}
	if diff := cmp.Diff(want, spec.FieldNames()); diff != "" {
		t.Error(diff)
	}
	if f := spec.Field("columns"); f.Type.Key == nil || f.Type.Short == nil || f.Type.Short.Name != "type" || f.Type.Elem.Field("name") != nil {
		t.Errorf("columns: key %v, short %v, elem %v", f.Type.Key, f.Type.Short, f.Type.Elem.FieldNames())
	}
	if !spec.Field("password").Secret || !spec.Field("url").Secret || spec.Field("start").Secret {
		t.Error("secrets are not told from the rest")
	}
	if f := spec.Field("brokers"); !f.Required || f.Type.String() != "list of text" || !reflect.DeepEqual(f.Index, []int{0, 0}) {
		t.Errorf("brokers: %+v", f)
	}
}

func TestEmbeddedFieldIsRequiredWhereTheTagSaysSo(t *testing.T) {
	type Shared struct {
		Brokers []string `yaml:"brokers" doc:"Brokers."`
	}
	type source struct {
		Shared `required:"brokers"`
	}
	type other struct{ Shared }
	for want, of := range map[bool]func() (*Spec, error){true: SpecOf[source], false: SpecOf[other]} {
		spec, err := of()
		if err != nil {
			t.Fatal(err)
		}
		if f := spec.Field("brokers"); f.Required != want {
			t.Errorf("required %t, want %t", f.Required, want)
		}
	}
	type wrong struct {
		Shared `required:"broker"`
	}
	if _, err := SpecOf[wrong](); err == nil || !strings.Contains(err.Error(), `no field "broker"`) {
		t.Errorf("error %v", err)
	}
}

func TestDefaultsFillZeroFields(t *testing.T) {
	cfg := example{Start: "latest", TLS: &tlsConfig{}, Columns: []column{{Name: "a"}}}
	Defaults(&cfg)
	want := example{
		Start: "latest", Timeout: 30 * time.Second, Buffer: 4 << 20, N: 5, Ratio: 0.5, Names: []string{"a", "b"},
		TLS: &tlsConfig{Timeout: 3 * time.Second}, Inner: tlsConfig{Timeout: 3 * time.Second}, Columns: []column{{Name: "a"}},
	}
	if diff := cmp.Diff(want, cfg, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Hook" }, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}
	var none example
	Defaults(&none)
	if none.TLS != nil {
		t.Error("an absent section came into being")
	}
}

func TestSpecRefusesMistakesInTags(t *testing.T) {
	type recursive struct {
		Self []struct {
			X *example `yaml:"x" doc:"x"`
		} `yaml:"self" doc:"x"`
	}
	if _, err := SpecOf[recursive](); err != nil {
		t.Errorf("not recursive: %v", err)
	}
	tests := []struct {
		name, want string
		spec       func() (*Spec, error)
	}{
		{"no tag", "no yaml tag", SpecOf[struct{ A string }]},
		{"default of another type", "not a whole number", SpecOf[struct {
			A int `yaml:"a" doc:"x" default:"x"`
		}]},
		{"default out of enum", "not one of", SpecOf[struct {
			A string `yaml:"a" doc:"x" default:"x" enum:"y,z"`
		}]},
		{"twice", "a second one", SpecOf[struct {
			A string `yaml:"a" doc:"x"`
			B string `yaml:"a" doc:"x"`
		}]},
		{"unsupported", "cannot be configured", SpecOf[struct {
			A chan int `yaml:"a" doc:"x"`
		}]},
		{"required with default", "required field", SpecOf[struct {
			A string `yaml:"a" doc:"x" required:"true" default:"b"`
		}]},
		{"keyed scalar", "keyed is for", SpecOf[struct {
			A []string `yaml:"a" doc:"x" keyed:"Name"`
		}]},
		{"itself", "contains itself", SpecOf[node]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.spec(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

type node struct {
	Next *node `yaml:"next" doc:"x"`
}

func TestSetTextErrorsHideSecrets(t *testing.T) {
	f := &Field{Secret: true, Enum: []string{"a"}, Type: &Type{Kind: KindString, Go: reflect.TypeFor[string]()}}
	var s string
	err := f.SetText(reflect.ValueOf(&s).Elem(), "hunter2")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

func TestBytesText(t *testing.T) {
	for _, s := range []string{"0", "1B", "512KiB", "4MiB", "1GiB", "1500B"} {
		b, err := ParseBytes(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if again, err := ParseBytes(b.String()); err != nil || again != b {
			t.Errorf("%s: %d written as %s reads as %d, %v", s, b, b, again, err)
		}
	}
	for _, s := range []string{"", "-1", "4 Mib", "1.5MiB", "99999999999GiB", "MiB"} {
		if b, err := ParseBytes(s); err == nil {
			t.Errorf("%q read as %d", s, b)
		}
	}
}
