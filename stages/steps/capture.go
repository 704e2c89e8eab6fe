package steps

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// The transition tables of a large statement are written to temporary files, in the
// application's session and at its expense. If a role or a database has a temp_file_limit
// of its own, even one of -1 (no limit), there is a limit somewhere else: otherwise its
// own would have no purpose. The server's limit may not be visible to us, because our
// role's own setting overrides it.
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

// CaptureOptions decides how changes are captured during a job.
func CaptureOptions(ctx context.Context, q catalog.Querier, o *registry.Options) error {
	if err := q.QueryRow(ctx, captureOptionsSQL).Scan(&o.RowTriggers, &o.CountRows); err != nil {
		return fmt.Errorf("look for temp_file_limit: %w", err)
	}
	return nil
}
