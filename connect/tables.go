package connect

import (
	"slices"
	"strings"
)

const tableSeparator = ", "

// JoinTables is how a checkpoint names the tables that a flow writes: sorted, each
// once, separated by comma and space. It is compared when the flow starts again.
func JoinTables(names []string) string {
	names = slices.Sorted(slices.Values(names))
	return strings.Join(slices.Compact(names), tableSeparator)
}

// CoversTables says whether a flow that writes the one set of tables, as joined by
// JoinTables, writes all of another. A flow may get more tables; its positions do not
// hold for fewer.
func CoversTables(writes, tables string) bool {
	have := strings.Split(writes, tableSeparator)
	for t := range strings.SplitSeq(tables, tableSeparator) {
		if !slices.Contains(have, t) {
			return false
		}
	}
	return true
}
