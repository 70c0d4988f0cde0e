package dlq

import (
	"testing"

	"github.com/penstockdev/penstock/internal/expr"
)

func mustFilter(t *testing.T, src string) *expr.Filter {
	t.Helper()
	f, err := expr.NewFilter(src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
