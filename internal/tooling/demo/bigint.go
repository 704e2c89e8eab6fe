package demo

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/repack-go/repack/repack"
)

const lastInteger = math.MaxInt32

// keyType is the type of the orders' key before the run.
func (s *show) keyType() string {
	if s.ToBigint {
		return "integer"
	}
	return "bigint"
}

// nearTheEnd leaves room for what the writers insert before the swap.
var nearTheEnd = step{
	"continue the key of orders ten million below the end of integer",
	`SELECT setval(pg_get_serial_sequence('repack_demo.orders', 'id'), 2147483647 - 10000000)`,
}

// endSQL does nothing before the key is bigint, so that no writer fails.
const endSQL = `
SELECT setval(pg_get_serial_sequence('repack_demo.orders', 'id'), 2147483647 - 50)
FROM   pg_attribute
WHERE  attrelid = 'repack_demo.orders'::regclass AND attname = 'id' AND atttypid = 'bigint'::regtype`

// beyondTheEnd lets the writers reach the end of integer as soon as the table with the wide key is
// in its place, and waits until one of them is beyond it. The old table, whose key is integer, is
// still there. Without the jump, a demo would take days.
func (s *show) beyondTheEnd(ctx context.Context, stage repack.Stage) error {
	if stage != repack.Swap {
		return nil
	}
	tag, err := s.conn.Exec(ctx, endSQL)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	s.out.line("the key of orders is bigint; its sequence continues 50 below the end of integer")
	for greatest := int64(0); greatest <= lastInteger; {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		if err := s.conn.QueryRow(ctx, greatestSQL).Scan(&greatest); err != nil {
			return fmt.Errorf("read the greatest id: %w", err)
		}
	}
	s.out.line("a writer has inserted an order that an integer cannot take")
	return nil
}

const greatestSQL = `SELECT max(id) FROM repack_demo.orders`

// widened returns definitions as they must be after the run.
func widened(definitions []string) []string {
	after := make([]string, len(definitions))
	for i, line := range definitions {
		after[i] = strings.Replace(line, " integer ", " bigint ", 1)
	}
	return after
}
