package mesh

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row is the seed's first example with one column changed.
func row(column string, value any) []any {
	r := []any{"sa-node-1", "myapp", "sa", "10.50.1.1", int64(8080), int64(1), int64(2), int64(50), int64(100), int64(0)}
	if column != "" {
		r[indexOf(column)] = value
	}
	return r
}

func indexOf(column string) int {
	for i, c := range BackendColumns {
		if c == column {
			return i
		}
	}
	panic("no column " + column)
}

const megabyte = 1 << 20
