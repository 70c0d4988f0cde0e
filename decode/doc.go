// Package decode turns the bytes of records into typed columns
// (flow.Columns), which sinks write without looking at the records again.
//
// What belongs here: one decoder per wire format (JSON now), the description of
// a column that all formats share, and the conversion of a value into the
// column's type. What does not: reading from a source, or a target's own
// wire form.
//
// A decoder is a compiled plan: the columns become a tree of the paths to look
// for, and every value goes from the record straight into its column. Nothing
// is allocated per record. A decoder learns the order of the keys as it reads,
// so it serves one lane: make one per lane.
//
// # JSON
//
// The parser is complete and strict: RFC 8259, the whole document, also the
// parts that no column reads. Beyond the grammar: at most 512 levels deep; no
// byte order mark; strings are valid UTF-8 and their escapes contain no lone
// surrogate; of duplicate keys the last wins.
//
// A record that does not fit is rejected with a *flow.RecordError, of class
//
//	malformed   it is not JSON
//	encoding    invalid UTF-8, a lone surrogate, or U+0000 where text cannot hold it
//	type        a value is not of the column's type
//	range       it is of the type, and too large or too small for it
//	null        a required column is absent or null
//
// How JSON values become columns:
//
//   - Numbers: int2, int4 and int8 take every JSON number whose value is whole and
//     in range, so 1e3 and 1.0 too, but not 1.5. numeric keeps the number as it is
//     written; numeric(p,s) refuses what does not fit after rounding to s places. Both
//     refuse more than 131072 digits before the point or 16383 after it.
//     A number in a string is of the wrong type unless format is "string".
//   - Times are truncated to microseconds, towards the past, and lie in the years 1
//     to 9999. A timestamp that is written with a zone is converted to UTC.
//   - null is an absent value: the default if there is one. This holds for json
//     columns too. A path that leads through null is absent; one that leads
//     through a string, number or boolean is an error of type, and so is one whose
//     next key is no index where there is an array. A document that is null altogether
//     is an error of type, as any other that is no object, unless a column's path is $.
//   - Arrays may hold nulls, and are of one dimension.
//
// A record without a value (a tombstone) has null in every column that is read
// from the value, required or not: what it means is the sink's decision.
package decode
