package tests

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/pgtest"
	"github.com/repack-go/repack/repack"
)

// noticedSQL notes the memory with which the shadow gets what is built on it.
const noticedSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, a int, during int4range, EXCLUDE USING gist (during WITH &&));
CREATE INDEX t_a ON app.t (a);
INSERT INTO app.t SELECT i, i, int4range(i, i + 1) FROM generate_series(1, 100) i;
CREATE TABLE public.noticed (tag text, memory text);
CREATE FUNCTION public.notice() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_query() ~ '^CREATE .*INDEX.* ON "repack_job_1"' OR current_query() ~ 'EXCLUDE' THEN
        INSERT INTO public.noticed VALUES (tg_tag, current_setting('maintenance_work_mem'));
    END IF;
END $$;
CREATE EVENT TRIGGER notice ON ddl_command_start WHEN tag IN ('CREATE INDEX', 'ALTER TABLE') EXECUTE FUNCTION public.notice()`

func TestMaintenanceWorkMem(t *testing.T) {
	t.Parallel()
	for memory, want := range map[string]string{"": "64MB", "7MB": "7MB", "8192": "8MB"} {
		sorted := want // in as little as is best, unless told
		if memory == "" {
			sorted = "8MB"
		}
		t.Run(memory, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, noticedSQL)
			o := options(t, "app.t", repack.ChangeLog)
			o.MaintenanceWorkMem = memory
			for _, stage := range planOf(t, db, o).Stages {
				var all strings.Builder
				for _, step := range stage.Steps {
					all.WriteString(strings.Join(step.SQL, "\n") + "\n")
				}
				sets := 0
				if memory != "" {
					sets = map[repack.Stage]int{repack.SyncSchema: 3, repack.PostSyncUpdate: 1}[stage.Stage]
				}
				if n := strings.Count(all.String(), "maintenance_work_mem = '"+memory+"'"); n != sets {
					t.Errorf("%s sets the memory %d times, want %d:\n%s", stage.Stage, n, sets, all.String())
				}
			}
			run(t, db, o)
			got := pgtest.Column[string](t, db.Pool, `SELECT tag || ' ' || memory FROM public.noticed ORDER BY tag`)
			if expected := []string{"ALTER TABLE " + want, "CREATE INDEX " + sorted, "CREATE INDEX " + sorted}; !slices.Equal(got, expected) {
				t.Errorf("built with %q, want %q", got, expected)
			}
		})
	}
}

// TestMaintenanceWorkMemInvalid is told before anything is touched, also of a
// job that is gone on with.
func TestMaintenanceWorkMemInvalid(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	before := db.CatalogDump(t)
	for _, memory := range []string{"much", "1kB", "-1", "1 PB", "100000TB", "1MB'; SELECT 1"} {
		o := options(t, "app.t", repack.ChangeLog)
		o.MaintenanceWorkMem = memory
		var usage *repack.UsageError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &usage) || !strings.Contains(err.Error(), memory) {
			t.Errorf("run with %q: %v, want a usage error", memory, err)
		}
		cli(t, db, 2, "plan", "--table", "app.t", "--maintenance-work-mem", memory).says(t, memory)
	}
	cli(t, db, 2, "run", "--table", "app.t", "--maintenance-work-mem", "much").says(t, "maintenance work mem", "much")
	if after := db.CatalogDump(t); after != before {
		t.Errorf("a usage error changed the database:\n%s", textDiff(before, after))
	}
	cli(t, db, 0, "run", "--table", "app.t", "--until", "backfill", "--maintenance-work-mem", "3MB")
	cli(t, db, 2, "run", "--table", "app.t", "--maintenance-work-mem", "much")
	cli(t, db, 0, "run", "--table", "app.t", "--maintenance-work-mem", "3MB")
}
