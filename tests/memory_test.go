package tests

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
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
    IF current_query() ~ '^CREATE .*INDEX.* ON "repack_job_1"' OR current_query() ~ '^ALTER TABLE [^;]+ EXCLUDE ' THEN
        INSERT INTO public.noticed VALUES (tg_tag, current_setting('maintenance_work_mem'));
    END IF;
END $$;
CREATE EVENT TRIGGER notice ON ddl_command_start WHEN tag IN ('CREATE INDEX', 'ALTER TABLE')
    EXECUTE FUNCTION public.notice()`

func TestMaintenanceWorkMem(t *testing.T) {
	t.Parallel()
	for memory, want := range map[string]string{"": "64MB", "7MB": "7MB", "8192": "8MB"} {
		sorted := want // in as little as is best, unless told
		if memory == "" {
			sorted = "8MB"
		}
		t.Run(memory, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
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
	db := withRegistry.New(t)
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

// keysOfSizeSQL has indexes of some megabytes, one on a column that is in the order of the
// rows, and notes with what they are built.
const keysOfSizeSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int, r int NOT NULL);
INSERT INTO app.t SELECT i, hashint4(i) FROM generate_series(1, 450000) i;
ALTER TABLE app.t ADD PRIMARY KEY (id);
CREATE INDEX t_r ON app.t (r, (id + 1));
CREATE INDEX t_some ON app.t (r) WHERE id <= 400000;
ANALYZE app.t;
CREATE TABLE public.noticed (index text, workers text, memory text);
CREATE FUNCTION public.notice() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_query() ~ '^CREATE .*INDEX.* ON "repack_job' THEN
        INSERT INTO public.noticed VALUES (substring(current_query() from 'INDEX "(\w+)"'),
            current_setting('max_parallel_maintenance_workers'), current_setting('maintenance_work_mem'));
    END IF;
END $$;
CREATE EVENT TRIGGER notice ON ddl_command_start WHEN tag IN ('CREATE INDEX') EXECUTE FUNCTION public.notice()`

// TestBuildsArePlannedTogether: what takes longest is built first, and the last of
// three builds on two connections has a worker where it would be alone; values in the
// order in which rows are copied have all the memory that there is.
func TestBuildsArePlannedTogether(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, keysOfSizeSQL)
	for _, c := range []struct {
		order string
		want  []string
	}{
		{"", []string{"t_pkey 1 64MB", "t_r 0 8MB", "t_some 0 8MB"}},
		{"r DESC", []string{"t_pkey 0 8MB", "t_r 0 64MB", "t_some 0 64MB"}},
		{"t_r", []string{"t_pkey 0 8MB", "t_r 0 64MB", "t_some 0 64MB"}},
		{"t_pkey", []string{"t_pkey 1 64MB", "t_r 0 8MB", "t_some 0 8MB"}},
	} {
		o := options(t, "app.t", repack.ChangeLog)
		o.OrderBy = c.order
		runUntil(t, db, o, repack.SyncSchema)
		got := pgtest.Column[string](t, db.Pool, `
			SELECT concat_ws(' ', index, workers, memory) FROM public.noticed ORDER BY 1`)
		if !slices.Equal(got, c.want) {
			t.Errorf("order %q: built with %q, want %q", c.order, got, c.want)
		}
		db.Exec(t, `TRUNCATE public.noticed`)
		if err := newRepack(t, db, o).Reset(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}
