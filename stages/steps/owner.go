package steps

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

const giveableSQL = `
SELECT oid, reltoastrelid <> 0, pg_get_userbyid(relowner) = $2, has_schema_privilege($2, relnamespace, 'CREATE')
FROM   pg_class
WHERE  oid = $1::text::regclass`

// GiveToOwner makes owner, the owner of the source, the owner of a table of ours. It gives
// take, which may be nil, the table's OID, and whether it has a TOAST table. A new owner
// must have the CREATE privilege on the schema: ALTER TABLE, "OWNER TO", in the manual.
func GiveToOwner(table catalog.Name, owner func() string, take func(oid uint32, toast bool) error) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			var oid uint32
			var toast, owns, may bool
			if err := tx.QueryRow(ctx, giveableSQL, table.String(), owner()).Scan(&oid, &toast, &owns, &may); err != nil {
				return fmt.Errorf("compare owner of %s: %w", table, err)
			}
			statements := giveSQL(table, owner())
			switch {
			case owns:
				statements = nil
			case may: // the owner has CREATE already, so it need not be granted
				statements = statements[1:2]
			}
			if err := ExecAll(ctx, tx, statements); err != nil || take == nil {
				return err
			}
			return take(oid, toast)
		},
		SQL: func(_ context.Context, p *Planner) ([]string, error) {
			if owner() == p.User {
				return nil, nil
			}
			return giveSQL(table, owner()), nil
		},
	}
}

func giveSQL(table catalog.Name, to string) []string {
	schema, owner := catalog.Quote(table.Schema), catalog.Quote(to)
	return []string{
		fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s", schema, owner),
		fmt.Sprintf("ALTER TABLE %s OWNER TO %s", table, owner),
		fmt.Sprintf("REVOKE CREATE ON SCHEMA %s FROM %s", schema, owner),
	}
}
