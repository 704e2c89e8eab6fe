package stages

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// Transition tables of large statements are written to temporary files, in the
// application's session and on its account. Who has a setting of his own, even
// for none, has it since there is another; that of the server may be hidden behind
// our own role's.
const captureOptionsSQL = `
SELECT current_setting('temp_file_limit') <> '-1'
       OR EXISTS (
           SELECT FROM pg_db_role_setting s, unnest(s.setconfig) c (setting)
           WHERE  s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
           AND    c.setting LIKE 'temp\_file\_limit=%'),
       has_function_privilege('public', 'pg_catalog.set_config(text,text,boolean)', 'EXECUTE')
       AND has_function_privilege('public', 'pg_catalog.current_setting(text,boolean)', 'EXECUTE')
       AND has_function_privilege('public', 'pg_catalog.left(text,integer)', 'EXECUTE')
       AND has_function_privilege('public', 'pg_catalog.textcat(text,text)', 'EXECUTE')`

// captureOptions decides how changes are captured for the time of a job.
func captureOptions(ctx context.Context, q catalog.Querier, o *registry.Options) error {
	if err := q.QueryRow(ctx, captureOptionsSQL).Scan(&o.RowTriggers, &o.CountRows); err != nil {
		return fmt.Errorf("look for temp_file_limit: %w", err)
	}
	return nil
}
