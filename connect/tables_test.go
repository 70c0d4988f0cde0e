package connect

import "testing"

func TestAFlowMayGetMoreTablesButNotFewer(t *testing.T) {
	two, three := JoinTables([]string{"b", "a", "b"}), JoinTables([]string{"c", "a", "b"})
	if two != "a, b" || three != "a, b, c" {
		t.Fatalf("joined: %q, %q", two, three)
	}
	if !CoversTables(three, two) || CoversTables(two, three) || CoversTables(two, "ab") {
		t.Error("more tables are refused, or fewer or others are taken")
	}
}
