package connect

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// Role is the part that a connector plays in a flow, and the section of a flow
// file in which it is chosen.
type Role string

// The roles.
const (
	RoleSource      Role = "source"
	RoleDecode      Role = "decode"
	RoleSink        Role = "sink"
	RoleDeadLetters Role = "dead_letters"
)

// Roles are all roles, in the order of a flow file.
func Roles() []Role { return []Role{RoleSource, RoleDecode, RoleSink, RoleDeadLetters} }

// Context is what the configuration of one connector may depend on: the rest
// of the flow, as far as it is decided already (source, decode, sink, dead letters,
// in this order).
type Context struct {
	// Flow is the flow's name.
	Flow string
	// Source is a pointer to the source's configuration, which may be at fault;
	// nil if there is none.
	Source any
	// Decodes says that the flow has a decoder.
	Decodes bool
	// Fields are the columns that the decoder makes. Nil if there is no decoder,
	// or its configuration is at fault.
	Fields []flow.Field
}

// Source describes a source, to be added to a Registry.
type Source[C any] struct {
	// Name is what is written in a flow file, Doc one line about it.
	Name, Doc string
	// New makes the source; it connects to nothing.
	New func(cfg C) (flow.Source, error)
	// Complete, if set, takes what cfg lacks from the rest of the flow, and
	// refuses what does not fit to it with a *FieldError (or several, joined).
	// It runs before cfg.Validate. Default: cfg's own method Complete, if it has one.
	Complete func(cfg *C, with Context) error
}

type completer interface{ Complete(with Context) error }

// Decoder describes a decoder. New is called once per lane.
type Decoder[C any] struct {
	Name, Doc string
	New       func(cfg C) (flow.Transform, error)
	Complete  func(cfg *C, with Context) error
}

// Sink describes a sink.
type Sink[C any] struct {
	Name, Doc string
	// NeedsColumns says that the sink writes typed columns: the flow must decode.
	NeedsColumns bool
	// StoresDeadLetters says that the sink keeps dead letters itself.
	StoresDeadLetters bool
	New               func(cfg C) (flow.Sink, error)
	Complete          func(cfg *C, with Context) error
}

// RoutedSink describes a sink that is a flow.Router. R is what each route of a
// flow has of its own; its fields are fields of C as well, where they hold for a
// flow without routes.
type RoutedSink[C, R any] struct {
	Sink[C]
	// SetRoutes hands the configurations of the flow's routes to cfg, in their
	// order. A *FieldError of C's Validate about the second is at routes.1.
	SetRoutes func(cfg *C, names []string, routes []R)
	// CompleteRoute, if set, does for a route what Sink.Complete does for a flow.
	CompleteRoute func(cfg *R, with Context) error
}

// DeadLetters describes a dead-letter queue.
type DeadLetters[C any] struct {
	Name, Doc string
	New       func(cfg C) (flow.DeadLetterQueue, error)
	Complete  func(cfg *C, with Context) error
}

// Connector is one entry of a Registry.
type Connector struct {
	Role      Role
	Name, Doc string
	// Spec describes the configuration.
	Spec *Spec
	// NeedsColumns and StoresDeadLetters are those of a Sink.
	NeedsColumns, StoresDeadLetters bool
	// Route describes what each route has of its own in a RoutedSink; nil for
	// connectors that take no routes.
	Route *Spec

	config        reflect.Type
	complete      func(cfg any, with Context) error
	build         func(cfg any) (any, error)
	completeRoute func(cfg any, with Context) error
	setRoutes     func(cfg any, names []string, routes []any) error
}

// Entry is a Source, Decoder, Sink, RoutedSink or DeadLetters.
type Entry interface{ connector() (*Connector, error) }

func (e Source[C]) connector() (*Connector, error) {
	return newConnector(RoleSource, e.Name, e.Doc, e.New, e.Complete)
}

func (e Decoder[C]) connector() (*Connector, error) {
	return newConnector(RoleDecode, e.Name, e.Doc, e.New, e.Complete)
}

func (e DeadLetters[C]) connector() (*Connector, error) {
	return newConnector(RoleDeadLetters, e.Name, e.Doc, e.New, e.Complete)
}

func (e Sink[C]) connector() (*Connector, error) {
	c, err := newConnector(RoleSink, e.Name, e.Doc, e.New, e.Complete)
	if err == nil {
		c.NeedsColumns, c.StoresDeadLetters = e.NeedsColumns, e.StoresDeadLetters
	}
	return c, err
}

func (e RoutedSink[C, R]) connector() (*Connector, error) {
	c, err := e.Sink.connector()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Connector, error) {
		return nil, fmt.Errorf("%s %q: its routes: %w", c.Role, c.Name, err)
	}
	if e.SetRoutes == nil {
		return fail(errors.New("there is no SetRoutes"))
	}
	if c.Route, err = SpecOf[R](); err != nil {
		return fail(err)
	}
	for _, f := range c.Route.Fields {
		if c.Spec.Field(f.Name) == nil {
			return fail(fmt.Errorf("field %s is none of the sink", f.Name))
		}
	}
	c.completeRoute = func(cfg any, with Context) error {
		own, ok := cfg.(*R)
		switch {
		case !ok:
			return fmt.Errorf("%s %s: a route's configuration of type %T is not its own", c.Role, c.Name, cfg)
		case e.CompleteRoute == nil:
			return nil
		}
		return e.CompleteRoute(own, with)
	}
	c.setRoutes = func(cfg any, names []string, routes []any) error {
		own, ok := cfg.(*C)
		all := make([]R, len(routes))
		for i := range routes {
			r, isRoute := routes[i].(*R)
			if ok = ok && isRoute; ok {
				all[i] = *r
			}
		}
		if !ok {
			return fmt.Errorf("%s %s: the configuration of its routes is not its own", c.Role, c.Name)
		}
		e.SetRoutes(own, names, all)
		return nil
	}
	return c, nil
}

func newConnector[C, P any](role Role, name, doc string, build func(C) (P, error), complete func(*C, Context) error) (*Connector, error) {
	fail := func(err error) (*Connector, error) { return nil, fmt.Errorf("%s %q: %w", role, name, err) }
	switch {
	case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
		return fail(errors.New("a name is lower-case letters, digits and underscores"))
	case doc == "" || strings.Contains(doc, "\n"):
		return fail(errors.New("a connector has one line of doc"))
	case build == nil:
		return fail(errors.New("a connector has a constructor"))
	}
	spec, err := SpecOf[C]()
	if err != nil {
		return fail(err)
	}
	if path := spec.undocumented(); path != "" {
		return fail(fmt.Errorf("field %s has no doc tag", path))
	}
	c := &Connector{Role: role, Name: name, Doc: doc, Spec: spec, config: reflect.TypeFor[C]()}
	foreign := func(cfg any) error {
		return fmt.Errorf("%s %s: a configuration of type %T is not its own", role, name, cfg)
	}
	c.build = func(cfg any) (any, error) {
		own, ok := cfg.(*C)
		if !ok {
			return nil, foreign(cfg)
		}
		return build(*own)
	}
	c.complete = func(cfg any, with Context) error {
		if complete != nil {
			own, ok := cfg.(*C)
			if !ok {
				return foreign(cfg)
			}
			return complete(own, with)
		}
		if own, ok := cfg.(completer); ok {
			return own.Complete(with)
		}
		return nil
	}
	return c, nil
}

// NewConfig returns a pointer to a new, zero configuration struct.
func (c *Connector) NewConfig() any { return reflect.New(c.config).Interface() }

// Complete takes what cfg, which NewConfig made, lacks from the rest of the flow.
func (c *Connector) Complete(cfg any, with Context) error { return c.complete(cfg, with) }

// NewRoute returns a pointer to a new, zero configuration of a route.
func (c *Connector) NewRoute() any { return reflect.New(c.Route.Go).Interface() }

// CompleteRoute is Complete for a configuration that NewRoute made.
func (c *Connector) CompleteRoute(cfg any, with Context) error { return c.completeRoute(cfg, with) }

// SetRoutes hands the configurations that NewRoute made to cfg.
func (c *Connector) SetRoutes(cfg any, names []string, routes []any) error {
	return c.setRoutes(cfg, names, routes)
}

// The constructors. Each is for a connector of its role alone.

// NewSource makes the source.
func (c *Connector) NewSource(cfg any) (flow.Source, error) {
	return construct[flow.Source](c, RoleSource, cfg)
}

// NewDecoder makes the decoder of one lane.
func (c *Connector) NewDecoder(cfg any) (flow.Transform, error) {
	return construct[flow.Transform](c, RoleDecode, cfg)
}

// NewSink makes the sink.
func (c *Connector) NewSink(cfg any) (flow.Sink, error) {
	return construct[flow.Sink](c, RoleSink, cfg)
}

// NewDeadLetters makes the dead-letter queue.
func (c *Connector) NewDeadLetters(cfg any) (flow.DeadLetterQueue, error) {
	return construct[flow.DeadLetterQueue](c, RoleDeadLetters, cfg)
}

// construct returns a nil interface with an error, never a typed nil.
func construct[T any](c *Connector, role Role, cfg any) (T, error) {
	var none T
	if c.Role != role {
		return none, fmt.Errorf("%s %s is not a %s", c.Role, c.Name, role)
	}
	made, err := c.build(cfg)
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", role, c.Name, err)
	}
	part, ok := made.(T)
	if !ok {
		return none, fmt.Errorf("%s %s: the constructor made a %T", role, c.Name, made)
	}
	return part, nil
}

// Registry holds the connectors that a program knows. The zero value is empty.
type Registry struct{ all []*Connector }

// Add adds connectors. An error is a mistake in a connector, or a name twice.
func (r *Registry) Add(entries ...Entry) error {
	for _, e := range entries {
		c, err := e.connector()
		if err != nil {
			return fmt.Errorf("adding a connector: %w", err)
		}
		if r.Find(c.Role, c.Name) != nil {
			return fmt.Errorf("adding a connector: there is a %s %q already", c.Role, c.Name)
		}
		r.all = append(r.all, c)
	}
	return nil
}

// Find returns a connector, or nil.
func (r *Registry) Find(role Role, name string) *Connector {
	for _, c := range r.all {
		if c.Role == role && c.Name == name {
			return c
		}
	}
	return nil
}

// Connectors are those of a role, by name.
func (r *Registry) Connectors(role Role) []*Connector {
	var out []*Connector
	for _, c := range r.all {
		if c.Role == role {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Connector) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Names are the names of a role's connectors, in order.
func (r *Registry) Names(role Role) []string {
	var out []string
	for _, c := range r.Connectors(role) {
		out = append(out, c.Name)
	}
	return out
}

// CheckKey refuses a mode of writing that needs a key without one, and key
// columns that the decoder does not make. The fields are called mode and key.
func CheckKey(mode string, key []string, with Context) error {
	if (mode == "ignore" || mode == "upsert") && len(key) == 0 {
		return Errorf("key", "mode %s needs to know by which columns a row is recognised, like key: [device_id, seq]", mode)
	}
	if with.Fields == nil {
		return nil
	}
	var errs []error
	for i, k := range key {
		if !slices.ContainsFunc(with.Fields, func(f flow.Field) bool { return f.Name == k }) {
			names := make([]string, len(with.Fields))
			for j, f := range with.Fields {
				names[j] = f.Name
			}
			errs = append(errs, Errorf(fmt.Sprintf("key.%d", i), "there is no column %q; the columns are %s", k, strings.Join(names, ", ")))
		}
	}
	return errors.Join(errs...)
}
