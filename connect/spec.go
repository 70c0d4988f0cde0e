package connect

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says how a field is written.
type Kind uint8

// The kinds.
const (
	KindString Kind = iota + 1
	KindBool
	KindInt
	KindFloat
	KindDuration
	KindBytes
	KindSecret
	KindList   // of Elem
	KindMap    // string keys, values of Elem
	KindStruct // Fields
	KindChoice // one connector of Role, and its configuration
	KindRoute  // what a route has of its own in the flow's connector of Role
)

// Type is the type of a field, as a person writes it.
type Type struct {
	Kind Kind
	// Go is the Go type; that of the struct where the field is a pointer.
	Go reflect.Type
	// Pointer says that the field is a pointer to a struct: absent means nil.
	Pointer bool
	// Elem is the type of a list's elements and of a map's values.
	Elem *Type
	// Fields are those of a struct.
	Fields []*Field
	// Key is set for a list that is written as a mapping: the field of Elem that
	// the mapping's key becomes. It is not among Elem.Fields.
	Key *Field
	// Short is the field of Elem that a scalar in place of the mapping sets.
	Short *Field
	// Role is set for a choice and for a route.
	Role Role
}

// Field is one field of a configuration struct.
type Field struct {
	// Name is the YAML name, GoName that of the struct's field.
	Name, GoName string
	Doc          string
	// Default is the text form of the default; empty where the zero value is it.
	Default string
	// Enum are the values allowed, or those of a list's elements; nil for any.
	Enum []string
	// Required fields must be given and not be empty.
	Required bool
	// Secret says that the value must not be shown.
	Secret bool
	Type   *Type
	// Index is for reflect.Value.FieldByIndex on the struct.
	Index []int
}

// Spec describes a connector's configuration: its fields, in the order of the
// struct. It feeds YAML decoding, lint, JSON Schema and the reference pages.
type Spec struct{ *Type }

// Choice is a field whose value is one connector and its configuration: the
// tag role:"sink" says of which kind. In YAML it is a mapping with one key, the
// connector's name.
type Choice struct {
	// Connector is nil where nothing was chosen.
	Connector *Connector
	// Config is a pointer to the connector's configuration struct.
	Config any
}

// RouteConfig is a field whose value is what a route has of its own in the
// flow's sink (Connector.Route): the tag is role:"sink".
type RouteConfig struct {
	// Config is a pointer to the route's configuration struct; nil where there is none.
	Config any
}

// SpecOf reads the Spec off the tags of the struct type C. An error is a
// mistake in the struct.
func SpecOf[C any]() (*Spec, error) { return specOf(reflect.TypeFor[C]()) }

func specOf(t reflect.Type) (*Spec, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is not a struct", t)
	}
	st, err := structType(t, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	return &Spec{st}, nil
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	secretType   = reflect.TypeFor[Secret]()
	choiceType   = reflect.TypeFor[Choice]()
	routeType    = reflect.TypeFor[RouteConfig]()
)

// typeOf maps a Go type; outer are the structs around it, against recursion.
func typeOf(t reflect.Type, outer []reflect.Type) (*Type, error) {
	k := func(kind Kind) (*Type, error) { return &Type{Kind: kind, Go: t}, nil }
	switch t {
	case durationType:
		return k(KindDuration)
	case bytesType:
		return k(KindBytes)
	case secretType:
		return k(KindSecret)
	case choiceType:
		return k(KindChoice)
	case routeType:
		return k(KindRoute)
	}
	switch t.Kind() {
	case reflect.String:
		return k(KindString)
	case reflect.Bool:
		return k(KindBool)
	case reflect.Int, reflect.Int32, reflect.Int64:
		return k(KindInt)
	case reflect.Float64:
		return k(KindFloat)
	case reflect.Struct:
		return structType(t, outer)
	case reflect.Pointer:
		if t.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("pointers are for structs, not for %s", t.Elem())
		}
		st, err := structType(t.Elem(), outer)
		if err == nil {
			st.Pointer = true
		}
		return st, err
	case reflect.Slice:
		elem, err := typeOf(t.Elem(), outer)
		return &Type{Kind: KindList, Go: t, Elem: elem}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("map keys are strings, not %s", t.Key())
		}
		elem, err := typeOf(t.Elem(), outer)
		return &Type{Kind: KindMap, Go: t, Elem: elem}, err
	default:
		return nil, fmt.Errorf("type %s cannot be configured", t)
	}
}

func structType(t reflect.Type, outer []reflect.Type) (*Type, error) {
	if slices.Contains(outer, t) {
		return nil, fmt.Errorf("%s contains itself", t)
	}
	st := &Type{Kind: KindStruct, Go: t}
	if err := st.addFields(t, nil, append(slices.Clone(outer), t)); err != nil {
		return nil, err
	}
	return st, nil
}

// addFields appends the fields of a Go struct, those of embedded structs in their place.
func (t *Type) addFields(of reflect.Type, index []int, outer []reflect.Type) error {
	for i := range of.NumField() {
		sf := of.Field(i)
		idx := append(slices.Clone(index), i)
		tag, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		switch {
		case tag == "-", !sf.IsExported() && !sf.Anonymous:
			continue
		case sf.Anonymous && tag == "" && sf.Type.Kind() == reflect.Struct:
			from := len(t.Fields)
			if err := t.addFields(sf.Type, idx, outer); err != nil {
				return err
			}
			if name := sf.Tag.Get("required"); name != "" {
				i := slices.IndexFunc(t.Fields[from:], func(f *Field) bool { return f.Name == name && f.Default == "" })
				if i < 0 {
					return fmt.Errorf("required: %s has no field %q without a default", sf.Name, name)
				}
				t.Fields[from+i].Required = true
			}
			continue
		case tag == "":
			return fmt.Errorf("field %s has no yaml tag (yaml:\"-\" leaves it out)", sf.Name)
		}
		f, err := newField(sf, tag, idx, outer)
		if err != nil {
			return fmt.Errorf("field %s: %w", sf.Name, err)
		}
		if t.Field(f.Name) != nil {
			return fmt.Errorf("field %s: a second one is called %q", sf.Name, f.Name)
		}
		t.Fields = append(t.Fields, f)
	}
	return nil
}

func newField(sf reflect.StructField, name string, index []int, outer []reflect.Type) (*Field, error) {
	t, err := typeOf(sf.Type, outer)
	if err != nil {
		return nil, err
	}
	f := &Field{
		Name: name, GoName: sf.Name, Index: index, Type: t,
		Doc: sf.Tag.Get("doc"), Default: sf.Tag.Get("default"),
		Required: sf.Tag.Get("required") == "true",
		Secret:   t.Kind == KindSecret || sf.Tag.Get("secret") == "true",
	}
	if e := sf.Tag.Get("enum"); e != "" {
		f.Enum = strings.Split(e, ",")
	}
	t.Role = Role(sf.Tag.Get("role"))
	if keyed := sf.Tag.Get("keyed"); keyed != "" {
		if t.Kind != KindList || t.Elem.Kind != KindStruct {
			return nil, errors.New("keyed is for slices of structs")
		}
		if err := t.setKeyed(keyed, sf.Tag.Get("short")); err != nil {
			return nil, err
		}
	}
	switch {
	case f.Required && f.Default != "":
		return nil, errors.New("a required field has no default")
	case f.Default != "":
		return f, f.SetText(reflect.New(sf.Type).Elem(), f.Default)
	}
	return f, nil
}

// setKeyed splits the key off the element's fields, and finds the short one.
func (t *Type) setKeyed(key, short string) error {
	sf, ok := t.Elem.Go.FieldByName(key)
	if !ok || sf.Type.Kind() != reflect.String {
		return fmt.Errorf("keyed: %s has no string field %s", t.Elem.Go, key)
	}
	t.Key = &Field{
		Name: strings.ToLower(key), GoName: key, Index: sf.Index, Doc: sf.Tag.Get("doc"), Required: true,
		Type: &Type{Kind: KindString, Go: sf.Type},
	}
	t.Elem.Fields = slices.DeleteFunc(t.Elem.Fields, func(f *Field) bool { return f.GoName == key })
	if short == "" {
		return nil
	}
	for _, f := range t.Elem.Fields {
		if f.GoName == short {
			t.Short = f
			return nil
		}
	}
	return fmt.Errorf("short: %s has no field %s", t.Elem.Go, short)
}

// Field returns the field of a struct with that YAML name, or nil.
func (t *Type) Field(name string) *Field {
	for _, f := range t.Fields {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// FieldNames are the YAML names of a struct's fields, in order.
func (t *Type) FieldNames() []string {
	names := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		names[i] = f.Name
	}
	return names
}

// Scalar says that a value of the type is written as one word or text.
func (t *Type) Scalar() bool { return t.Kind >= KindString && t.Kind <= KindSecret }

// String names the type for a person: "text", "list of text".
func (t *Type) String() string {
	switch t.Kind {
	case KindString, KindSecret:
		return "text"
	case KindBool:
		return "true or false"
	case KindInt:
		return "whole number"
	case KindFloat:
		return "number"
	case KindDuration:
		return "duration"
	case KindBytes:
		return "size"
	case KindList:
		if t.Key != nil {
			return "mapping of names to fields"
		}
		return "list of " + t.Elem.String()
	case KindMap:
		return "mapping of names to " + t.Elem.String()
	case KindStruct, KindChoice, KindRoute:
		return "mapping"
	}
	return "unknown"
}

// Want says what to write for the type, with an example where one helps.
func (t *Type) Want() string {
	switch t.Kind {
	case KindString, KindSecret:
		return "text"
	case KindBool:
		return "true or false"
	case KindInt:
		return "a whole number"
	case KindFloat:
		return "a number"
	case KindDuration:
		return "a duration like 500ms, 30s or 5m"
	case KindBytes:
		return "a size in bytes, or with a unit, like 512KiB or 4MiB"
	case KindList, KindMap, KindStruct, KindChoice, KindRoute:
		return "a " + t.String()
	}
	return "a value"
}

// undocumented returns the path of a field without doc; empty if there is none.
func (t *Type) undocumented() string {
	for _, f := range t.Fields {
		if f.Doc == "" {
			return f.Name
		}
		if p := f.Type.undocumented(); p != "" {
			return f.Name + "." + p
		}
	}
	if t.Elem != nil {
		return t.Elem.undocumented()
	}
	return ""
}

// SetText sets v from the text form of the field: a scalar, or for a list of
// scalars its elements separated by commas. The error does not contain the text
// of a secret.
func (f *Field) SetText(v reflect.Value, text string) error {
	if f.Type.Kind != KindList {
		return f.setScalar(f.Type, v, text)
	}
	if !f.Type.Elem.Scalar() {
		return fmt.Errorf("want %s", f.Type.Want())
	}
	parts := strings.Split(text, ",")
	list := reflect.MakeSlice(f.Type.Go, len(parts), len(parts))
	for i, p := range parts {
		if err := f.setScalar(f.Type.Elem, list.Index(i), strings.TrimSpace(p)); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

// SetElemText sets one element of a list, or one value of a map, from its text.
func (f *Field) SetElemText(v reflect.Value, text string) error {
	return f.setScalar(f.Type.Elem, v, text)
}

func (f *Field) setScalar(t *Type, v reflect.Value, text string) error {
	if f.Enum != nil && !slices.Contains(f.Enum, text) {
		return &EnumError{Allowed: f.Enum, text: text, secret: f.Secret}
	}
	bad := func() error {
		if f.Secret {
			return fmt.Errorf("want %s", t.Want())
		}
		return fmt.Errorf("%q is not %s", text, t.Want())
	}
	switch t.Kind {
	case KindString, KindSecret:
		v.SetString(text)
	case KindBool:
		if text != "true" && text != "false" {
			return bad()
		}
		v.SetBool(text == "true")
	case KindInt:
		n, err := strconv.ParseInt(text, 10, t.Go.Bits())
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%s is out of range for a number of %d bits", text, t.Go.Bits())
		}
		if err != nil {
			return bad()
		}
		v.SetInt(n)
	case KindFloat:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x-x != 0 { // infinities and NaN are not settings
			return bad()
		}
		v.SetFloat(x)
	case KindDuration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return bad()
		}
		v.SetInt(int64(d))
	case KindBytes:
		b, err := ParseBytes(text)
		if err != nil {
			return bad()
		}
		v.SetInt(int64(b))
	case KindList, KindMap, KindStruct, KindChoice, KindRoute:
		return fmt.Errorf("want %s", t.Want())
	}
	return nil
}

// EnumError says that a value is not among those allowed.
type EnumError struct {
	Allowed []string
	text    string
	secret  bool
}

func (e *EnumError) Error() string {
	s := "the value"
	if !e.secret {
		s = strconv.Quote(e.text)
	}
	return s + " is not one of the values allowed"
}

// Text is the value, empty where it is secret.
func (e *EnumError) Text() string {
	if e.secret {
		return ""
	}
	return e.text
}

// Defaults fills in the defaults of cfg, a pointer to a configuration struct:
// every zero field that has a default tag, in nested structs and lists too.
// Pointers that are nil stay nil. It panics if the struct's tags are wrong,
// which the connector's tests show.
func Defaults(cfg any) {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic("connect: Defaults wants a pointer to a struct, not " + v.Type().String())
	}
	spec, err := specOf(v.Type().Elem())
	if err != nil {
		panic("connect: " + err.Error())
	}
	spec.Defaults(v.Elem())
}

// Defaults fills in the defaults of v, a value of the type.
func (t *Type) Defaults(v reflect.Value) {
	if t.Pointer {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return
			}
			v = v.Elem()
		}
	}
	switch t.Kind {
	case KindStruct:
		for _, f := range t.Fields {
			fv := v.FieldByIndex(f.Index)
			if f.Default != "" && fv.IsZero() {
				if err := f.SetText(fv, f.Default); err != nil {
					panic(fmt.Sprintf("connect: default of %s: %v", f.GoName, err)) // SpecOf has checked it
				}
				continue
			}
			f.Type.Defaults(fv)
		}
	case KindList:
		if t.Elem.Kind == KindStruct {
			for i := range v.Len() {
				t.Elem.Defaults(v.Index(i))
			}
		}
	case KindMap:
		if t.Elem.Kind == KindStruct {
			for _, k := range v.MapKeys() {
				elem := reflect.New(v.Type().Elem()).Elem()
				elem.Set(v.MapIndex(k))
				t.Elem.Defaults(elem)
				v.SetMapIndex(k, elem)
			}
		}
	case KindString, KindBool, KindInt, KindFloat, KindDuration, KindBytes, KindSecret, KindChoice, KindRoute:
	}
}
