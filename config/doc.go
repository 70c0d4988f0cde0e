// Package config turns a flow file (YAML) into a flow.Config.
//
// What belongs here: reading the file, strict decoding against the connectors'
// Specs, precedence, interpolation, and everything that is told to a person about
// a wrong file; the JSON Schema and the reference page, made from the same
// Specs. What does not: any connector. The Registry is given.
//
// # How a value is found
//
// The order of precedence is: --set flag, environment variable, file, default.
//
//   - --set path.to.field=value sets one field. A list of plain values is
//     separated by commas, or written like YAML ([a, b]); sections are written
//     like YAML. Choosing another connector (--set sink.stdout={}) replaces that of the
//     file.
//   - PENSTOCK_PATH_TO_FIELD sets the same field from the environment: the path in
//     upper case, with underscores for dots: PENSTOCK_SOURCE_KAFKA_BROKERS.
//     Columns and other names of your own cannot be set this way. A variable that is
//     empty counts as absent. One that is about a connector that the flow does
//     not use is ignored with a warning.
//   - In a value of the file, ${NAME} is the environment variable NAME, which must
//     be set; ${NAME:-text} has a default for when it is absent or empty;
//     ${file:/path} is the content of a file without its last line end;
//     $$ is a dollar sign, and so is a $ that no { follows. The result is always one
//     plain value: it can be a number, and never YAML.
//
// # What is refused
//
// Anything not understood. All findings of a file are reported together, as
// Problems, each with its place. No secret is ever part of one: the line shown
// is masked wherever it is not known to be harmless. Files above
// 1 MiB, nesting deeper than 32, anchors, aliases, tags and second documents are
// refused before anything is built of them.
package config
