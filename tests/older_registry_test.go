package tests

import (
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// olderSQL takes a registry back, version by version.
var olderSQL = []string{
	`DROP TABLE repack_registry.event`,
	`DROP TABLE repack_registry.reindex`,
	`DROP TABLE repack_registry.batch_table, repack_registry.batch`,
	`DROP TABLE repack_registry.control, repack_registry.heartbeat`,
	`ALTER TABLE repack_registry.job DROP COLUMN alteration`,
	`DROP TABLE repack_registry.last_id;
	ALTER TABLE repack_registry.job ALTER id ADD GENERATED ALWAYS AS IDENTITY;
	ALTER TABLE repack_registry.partitioned ALTER id ADD GENERATED ALWAYS AS IDENTITY;
	ALTER TABLE repack_registry.verification DROP CONSTRAINT verification_pkey, ADD PRIMARY KEY (id), ALTER id ADD GENERATED ALWAYS AS IDENTITY;
	CREATE INDEX verification_job_id_idx ON repack_registry.verification (job_id);
	GRANT INSERT ON repack_registry.job TO PUBLIC`,
	`ALTER TABLE repack_registry.stage_history REPLICA IDENTITY DEFAULT; ALTER TABLE repack_registry.schema_version REPLICA IDENTITY DEFAULT`,
	`ALTER TABLE repack_registry.job DROP COLUMN longest_lock_ms, DROP COLUMN interrupted`,
	`ALTER TABLE repack_registry.job DROP COLUMN partitioned; DROP TABLE repack_registry.partitioned`,
	`DROP TABLE repack_registry.verification`,
}

// TestOlderRegistryIsRead has status and plan read what older versions have left
// in the midst of a job, without a change; run upgrades it and ends the job.
func TestOlderRegistryIsRead(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		newest := pgtest.Query[int](t, db.Pool, `SELECT version FROM repack_registry.schema_version`)
		const known = 11 // whose changes olderSQL undoes
		if newest != known {
			t.Fatalf("registry of version %d: say in olderSQL what version %d added", newest, newest)
		}
		for i, sql := range olderSQL {
			version := known - 1 - i
			db.Exec(t, sql)
			mustExec(t, db.Pool, `UPDATE repack_registry.schema_version SET version = $1`, version)
			r := newRepack(t, db, o)
			list, err := r.Status(testContext(t))
			if err != nil || len(list) != 1 || list[0].Stage != repack.Backfill {
				t.Errorf("status of a registry of version %d: %v, %v", version, list, err)
			}
			if plan, err := r.Plan(testContext(t)); err != nil || plan.Job == nil {
				t.Errorf("plan of a registry of version %d: %v", version, err)
			}
			if is := pgtest.Query[int](t, db.Pool, `SELECT version FROM repack_registry.schema_version`); is != version {
				t.Errorf("it was upgraded to %d", is)
			}
		}
		s.write(t)
		run(t, db, o)
		s.restored(t)
		if may := pgtest.Query[bool](t, db.Pool, `SELECT has_table_privilege('pg_monitor', 'repack_registry.last_id', 'UPDATE')`); !may {
			t.Error("who may write jobs may not number them")
		}
		run(t, db, o)
		if id := pgtest.Query[int](t, db.Pool, `SELECT max(id) FROM repack_registry.job`); id != 2 {
			t.Errorf("the next job has the number %d", id)
		}
	})
}
