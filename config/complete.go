package config

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// complete checks what a single field cannot know.
func (w *walker) complete(f *Flow, spec *connect.Spec) {
	w.validate(spec.Type, reflect.ValueOf(f).Elem(), "")
	with := connect.Context{Flow: cmp.Or(f.Name, "unnamed"), Decodes: f.Decode.Connector != nil} // a name that is missing is one finding
	w.finish(f.Source, string(connect.RoleSource), with)
	with.Source = f.Source.Config
	decodes := w.routed
	if w.routed {
		w.completeRoutes(f, with)
	} else {
		if w.finish(f.Decode, string(connect.RoleDecode), with) {
			with.Fields = w.fields(f.Decode, string(connect.RoleDecode))
		}
		w.finish(f.Sink, string(connect.RoleSink), with)
		_, decodes = w.places[string(connect.RoleDecode)]
		w.needColumns(f.Sink.Connector, "", string(connect.RoleSink))
	}
	w.finish(f.DeadLetters, string(connect.RoleDeadLetters), with)
	_, letters := w.places[string(connect.RoleDeadLetters)]
	if sink := f.Sink.Connector; sink != nil && decodes && !letters && !sink.StoresDeadLetters {
		w.report(w.placeOf(join(string(connect.RoleSink), sink.Name)), string(connect.RoleDeadLetters), "dead_letters: allowed: "+orList(w.registry.Names(connect.RoleDeadLetters)),
			"records that cannot be decoded need somewhere to go: sink %s keeps no dead letters, and the flow has no dead_letters section", sink.Name).
			as(RuleMissing).allow(w.registry.Names(connect.RoleDeadLetters), "")
	}
}

// needColumns reports that there is no decode section in the section at the path (the
// file or a route), where the sink needs one. at is where to say so.
func (w *walker) needColumns(sink *connect.Connector, path, at string) {
	if sink == nil || !sink.NeedsColumns {
		return
	}
	decode, whose := join(path, string(connect.RoleDecode)), "the flow"
	if path != "" {
		whose = path
	} else {
		at = join(at, sink.Name)
	}
	if _, decodes := w.places[decode]; !decodes && !w.covered(decode) {
		w.report(w.placeOf(at), decode, "decode: says which columns a record has; allowed: "+orList(w.registry.Names(connect.RoleDecode)),
			"sink %s writes columns, and %s has no decode section", sink.Name, whose).
			as(RuleMissing).allow(w.registry.Names(connect.RoleDecode), "")
	}
}

// finish fills in the defaults of the choice at the path, completes it from the rest of the
// flow and validates it. It reports whether nothing is wrong with it.
func (w *walker) finish(c connect.Choice, path string, with connect.Context) bool {
	if c.Connector == nil {
		return false
	}
	path = join(path, c.Connector.Name)
	v := reflect.ValueOf(c.Config).Elem()
	c.Connector.Spec.Defaults(v)
	w.fieldErrors(c.Connector.Complete(c.Config, with), path)
	w.validate(c.Connector.Spec.Type, v, path)
	return !w.faulty(path)
}

// validate calls Validate on v and the structs in it, inner ones first.
func (w *walker) validate(t *connect.Type, v reflect.Value, path string) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	switch t.Kind {
	case connect.KindStruct:
		for _, f := range t.Fields {
			w.validate(f.Type, v.FieldByIndex(f.Index), join(path, f.Name))
		}
		if val, ok := reflect.TypeAssert[interface{ Validate() error }](v.Addr()); ok {
			w.fieldErrors(val.Validate(), path)
		}
	case connect.KindList:
		for i := range v.Len() {
			name := strconv.Itoa(i)
			if t.Key != nil && v.Index(i).Kind() == reflect.Struct {
				name = v.Index(i).FieldByIndex(t.Key.Index).String()
			}
			w.validate(t.Elem, v.Index(i), join(path, name))
		}
	default: // maps hold values that cannot be addressed, scalars have nothing to say
	}
}

// fieldErrors reports the FieldErrors in err, and what else it holds, where the
// fields are. Fields that have a finding already are left out.
func (w *walker) fieldErrors(err error, path string) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			w.fieldErrors(e, path)
		}
		return
	}
	var fe *connect.FieldError
	if !errors.As(err, &fe) {
		if !w.faulty(path) {
			w.report(w.placeOf(path), path, "", "%s: %v", label(path), err)
		}
		return
	}
	full := path
	if fe.Path != "" {
		full = join(path, strings.NewReplacer("[", ".", "]", "").Replace(fe.Path))
	}
	full = w.atRoute(full)
	if !w.covered(full) && !w.inherited(full, fe.Err) {
		w.report(w.placeOf(full), full, "", "%s: %v", label(full), fe.Err)
	}
}

// inherited says that the field was taken from another connector (Complete),
// where the same was found already.
func (w *walker) inherited(path string, err error) bool {
	if _, ok := w.places[path]; ok {
		return false
	}
	return slices.ContainsFunc(w.problems, func(p *Problem) bool { return strings.HasSuffix(p.Message, ": "+err.Error()) })
}

// placeOf is where the field is, or the nearest section around it that is
// written in the file.
func (w *walker) placeOf(path string) place {
	for p := path; ; p = parent(p) {
		if at, ok := w.places[p]; ok {
			if p == path && at.value.kind == scalarNode {
				return at.value.at
			}
			return at.key
		}
		if p == "" {
			return place{line: 1, column: 1}
		}
	}
}

// faulty says that there is a finding at the path or below it.
func (w *walker) faulty(path string) bool {
	for p, at := range w.places {
		if at.value.kind == unknownNode && (p == path || strings.HasPrefix(p, path+".")) {
			return true
		}
	}
	return slices.ContainsFunc(w.problems, func(p *Problem) bool {
		return path == "" || p.Path == path || strings.HasPrefix(p.Path, path+".")
	})
}

// covered says that there is a finding at the path, around it or below it, so that
// another one would only repeat it.
func (w *walker) covered(path string) bool {
	return w.faulty(path) || slices.ContainsFunc(w.problems, func(p *Problem) bool {
		return p.covers && (p.Path == "" || strings.HasPrefix(path, p.Path+".")) || p.meant == path
	})
}

// fields are the columns that the decoder at the path makes.
func (w *walker) fields(c connect.Choice, path string) []flow.Field {
	made, err := c.Connector.NewDecoder(c.Config)
	if err != nil {
		w.fieldErrors(unwrapConstruct(err), join(path, c.Connector.Name))
		return nil
	}
	if s, ok := made.(flow.Schemer); ok {
		return s.Fields()
	}
	return nil
}

// unwrapConstruct drops the name of the connector, which the path says already.
func unwrapConstruct(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
