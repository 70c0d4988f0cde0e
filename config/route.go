package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// Route is what some topics of a flow go through.
type Route struct {
	Name    string              `yaml:"-" doc:"Name of the route, for messages."`
	Topics  []string            `yaml:"topics" doc:"Topics that take this route. Either this or pattern."`
	Pattern string              `yaml:"pattern" doc:"Regular expression (RE2): topics whose name it matches take this route. Either this or topics."`
	Decode  connect.Choice      `yaml:"decode" role:"decode" doc:"How the bytes of a record become typed columns. Required by sinks that write columns."`
	Sink    connect.RouteConfig `yaml:"sink" role:"sink" required:"true" doc:"Where the rows go: the fields of the flow's sink that are the route's own, like table, mode, key and create_table."`
}

// Validate refuses a route that says in no way, or in two, which topics take it.
func (r *Route) Validate() error {
	switch {
	case len(r.Topics) > 0 && r.Pattern != "":
		return connect.Errorf("pattern", "topics is set as well; remove one of the two")
	case len(r.Topics) == 0 && r.Pattern == "":
		return connect.Errorf("topics", "name at least one topic that takes this route, or set pattern")
	}
	var errs []error
	for i, t := range r.Topics {
		if t == "" || slices.Contains(r.Topics[:i], t) {
			errs = append(errs, connect.Errorf(fmt.Sprintf("topics.%d", i), "topic %q is empty or named twice", t))
		}
	}
	if _, err := regexp.Compile(r.Pattern); err != nil {
		errs = append(errs, connect.Errorf("pattern", "%w", err))
	}
	return errors.Join(errs...)
}

// match returns the rule by which topics take a route that is valid.
func (r *Route) match() func(topic string) bool {
	if r.Pattern == "" {
		return func(topic string) bool { return slices.Contains(r.Topics, topic) }
	}
	return regexp.MustCompile(r.Pattern).MatchString
}

const routesPath = "routes"

// routedSink is the sink whose fields routes have; nil where the file names none
// that there is.
func (w *walker) routedSink(root *node) *connect.Connector {
	e := root.field(string(connect.RoleSink))
	if e == nil {
		return nil
	}
	for _, choice := range e.value.fields {
		if c := w.registry.Find(connect.RoleSink, choice.key); c != nil {
			return c
		}
	}
	return nil
}

// route decodes what a route has of its own in the flow's sink.
func (w *walker) route(n *node, at place, t *connect.Type, v reflect.Value, path string) {
	if w.sink == nil || w.sink.Route == nil {
		return // which is a finding elsewhere
	}
	if w.expect(n, mappingNode, t, path) {
		cfg := w.sink.NewRoute()
		w.structure(n, at, w.sink.Route.Type, reflect.ValueOf(cfg).Elem(), path)
		v.Set(reflect.ValueOf(connect.RouteConfig{Config: cfg}))
	}
}

// withoutRoute takes from a sink's section what its routes have of their own,
// which is refused beside them.
func (w *walker) withoutRoute(c *connect.Connector, n *node, path string) (*node, *connect.Type) {
	if !w.routed || c.Route == nil {
		return n, c.Spec.Type
	}
	own := func(name string) bool { return c.Route.Field(name) != nil }
	t := *c.Spec.Type
	t.Fields = slices.DeleteFunc(slices.Clone(t.Fields), func(f *connect.Field) bool { return own(f.Name) })
	if n.kind != mappingNode {
		return n, &t
	}
	for _, e := range n.fields {
		if own(e.key) {
			reveal(e.value, nil, c.Route.Field(e.key).Type)
			w.report(e.at, join(path, e.key), "", "%s: the flow has routes, and each says in its own sink section where its rows go; move %s there", join(path, e.key), e.key).as(RuleRoute)
		}
	}
	rest := *n
	rest.fields = slices.DeleteFunc(slices.Clone(n.fields), func(e entry) bool { return own(e.key) })
	return &rest, &t
}

// completeRoutes is complete for what routes have in place of the flow.
func (w *walker) completeRoutes(f *Flow, with connect.Context) {
	if len(f.Routes) == 0 && !w.covered(routesPath) {
		w.report(w.placeOf(routesPath), routesPath, "", "routes names no route").as(RuleRoute)
	}
	if at, ok := w.places[string(connect.RoleDecode)]; ok {
		w.report(at.key, string(connect.RoleDecode), "", "decode: the flow has routes, and each decodes in its own way; move decode into the routes").as(RuleRoute)
	}
	sink := f.Sink.Connector
	if sink != nil && sink.Route == nil {
		var able []string
		for _, c := range w.registry.Connectors(connect.RoleSink) {
			if c.Route != nil {
				able = append(able, c.Name)
			}
		}
		w.report(w.placeOf(routesPath), routesPath, "sinks that do: "+orList(able), "sink %s takes no routes", sink.Name).as(RuleRoute)
		return
	}
	w.routeNames = nil
	var configs []any
	created := map[string]creation{}
	for i := range f.Routes {
		r := &f.Routes[i]
		path := join(routesPath, r.Name)
		with := with
		with.Decodes, with.Fields = r.Decode.Connector != nil, nil
		if w.finish(r.Decode, join(path, string(connect.RoleDecode)), with) {
			with.Fields = w.fields(r.Decode, join(path, string(connect.RoleDecode)))
		}
		w.needColumns(sink, path, path)
		if sink == nil || r.Sink.Config == nil {
			continue
		}
		at := join(path, string(connect.RoleSink))
		sink.Route.Defaults(reflect.ValueOf(r.Sink.Config).Elem())
		w.fieldErrors(sink.CompleteRoute(r.Sink.Config, with), at)
		w.checkCreated(sink, r, with.Fields, created)
		w.routeNames, configs = append(w.routeNames, r.Name), append(configs, r.Sink.Config)
	}
	w.checkTopics(f)
	if sink == nil || len(configs) == 0 {
		return
	}
	if err := sink.SetRoutes(f.Sink.Config, w.routeNames, configs); err != nil {
		w.fieldErrors(err, routesPath)
	}
	w.finish(f.Sink, string(connect.RoleSink), with)
}

// creation is a table that a flow creates: from the columns of the first of its routes
// that does.
type creation struct {
	route  string
	fields []flow.Field
}

// checkCreated compares the columns of a route with those of the table that an
// earlier one creates: the fields are called table and create_table.
func (w *walker) checkCreated(sink *connect.Connector, r *Route, fields []flow.Field, created map[string]creation) {
	v := reflect.ValueOf(r.Sink.Config).Elem()
	table := fieldNamed[string](sink.Route.Type, v, "table")
	if table == "" || fields == nil || !fieldNamed[bool](sink.Route.Type, v, "create_table") {
		return
	}
	first, ok := created[table]
	if !ok {
		created[table] = creation{r.Name, fields}
		return
	}
	columns := join(join(join(join(routesPath, r.Name), string(connect.RoleDecode)), r.Decode.Connector.Name), "columns")
	refuse := func(column, format string, args ...any) {
		path := join(columns, column)
		w.report(w.placeOf(path), path, "give both routes the same columns, or another table", "%s: "+format, append([]any{path}, args...)...)
	}
	for _, f := range fields {
		i := slices.IndexFunc(first.fields, func(o flow.Field) bool { return o.Name == f.Name })
		switch {
		case i < 0:
			refuse(f.Name, "route %s creates table %s without this column", first.route, table)
		case first.fields[i].Type != f.Type:
			refuse(f.Name, "route %s creates table %s with this column as %s", first.route, table, first.fields[i].Type)
		}
	}
	for _, o := range first.fields {
		if o.Required && !slices.ContainsFunc(fields, func(f flow.Field) bool { return f.Name == o.Name }) {
			refuse(o.Name, "there is no such column, and route %s creates table %s with it as required", first.route, table)
		}
	}
}

// atRoute is where a sink's finding about routes.1 is in the file.
func (w *walker) atRoute(path string) string {
	if w.sink == nil {
		return path
	}
	rest, ok := strings.CutPrefix(path, join(join(string(connect.RoleSink), w.sink.Name), routesPath)+".")
	if !ok {
		return path
	}
	for i, name := range w.routeNames {
		if field, ok := strings.CutPrefix(rest, fmt.Sprintf("%d.", i)); ok {
			return join(join(join(routesPath, name), string(connect.RoleSink)), field)
		}
	}
	return path
}

// checkTopics compares the topics that the source reads with those that routes
// take, as far as both are known: the fields are called topics and pattern.
func (w *walker) checkTopics(f *Flow) {
	if f.Source.Connector == nil || w.faulty(routesPath) {
		return
	}
	sourcePath := join(string(connect.RoleSource), f.Source.Connector.Name)
	t, v := f.Source.Connector.Spec.Type, reflect.ValueOf(f.Source.Config).Elem()
	topics, pattern := fieldNamed[[]string](t, v, "topics"), fieldNamed[string](t, v, "pattern")
	if w.faulty(join(sourcePath, "topics")) || w.faulty(join(sourcePath, "pattern")) || topics == nil && pattern == "" {
		return
	}
	reads := func(topic string) bool { return slices.Contains(topics, topic) }
	if pattern != "" {
		matches, err := regexp.Compile(pattern)
		if err != nil {
			return
		}
		reads = matches.MatchString
	}
	if pattern != "" {
		w.warnOfNewTopics(f, join(sourcePath, "pattern"), pattern)
	}
	reached := make([]bool, len(f.Routes))
	for i, topic := range topics {
		k := slices.IndexFunc(f.Routes, func(r Route) bool { return r.match()(topic) })
		if k < 0 {
			path := join(join(sourcePath, "topics"), fmt.Sprint(i))
			w.report(w.placeOf(path), path, "name it in the topics of a route, or do not read it", "topic %q takes no route", topic).as(RuleRoute)
			continue
		}
		reached[k] = true
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		path := join(routesPath, r.Name)
		found := false
		for k, topic := range r.Topics {
			at := join(join(path, "topics"), fmt.Sprint(k))
			earlier := slices.IndexFunc(f.Routes[:i], func(o Route) bool { return o.match()(topic) })
			switch {
			case !reads(topic):
				w.report(w.placeOf(at), at, "", "the source does not read topic %q", topic).as(RuleRoute)
			case earlier >= 0:
				w.report(w.placeOf(at), at, "the first route that matches is taken", "topic %q takes route %s, which comes before", topic, f.Routes[earlier].Name).as(RuleRoute)
			default:
				continue
			}
			found = true
		}
		if pattern == "" && !reached[i] && !found {
			w.report(w.placeOf(path), path, "", "no topic takes route %s: the source reads none that matches it and no route before it", r.Name).as(RuleRoute)
		}
	}
}

// topicNames are the names by which a route that takes every topic is told from
// one that takes some: each character that a topic's name may have, and all of them.
var topicNames = append(strings.Split(topicCharacters, ""), topicCharacters)

const topicCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// warnOfNewTopics warns where the routes may not take all topics that the
// source's pattern, which is at the path, matches now or later.
func (w *walker) warnOfNewTopics(f *Flow, path, pattern string) {
	taken := func(topic string) bool {
		return slices.ContainsFunc(f.Routes, func(r Route) bool { return r.Pattern == pattern || r.match()(topic) })
	}
	if !slices.ContainsFunc(topicNames, func(t string) bool { return !taken(t) }) {
		return
	}
	w.warn(w.placeOf(path), path, "add a last route that takes every other topic, like others: {pattern: .*, ...}",
		"%s: a new topic that matches it and that no route takes stops the flow", path).as(RuleRoute)
}
