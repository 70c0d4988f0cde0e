// Package propose writes a first flow file for a topic that nobody has described: it looks at
// records, proposes columns and types, says how sure it is, and tries the proposal on what
// it has seen. What belongs here: what can be told from samples. What does not: connecting,
// which is the connectors', and judging the file, which is package config's.
package propose
