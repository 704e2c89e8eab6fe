package tests

import (
	"testing"

	"github.com/repack-go/repack/internal/pgtest"
)

// trialCases are refused before anything is touched, since what the swap would
// make could not be made, or would be another: the refusal names it.
var trialCases = []struct {
	name, sql string
	says      []string
	since     int // major version
}{
	{name: "index that a partition lacks", sql: `CREATE TABLE app.t (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
		CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES FROM (1) TO (1000); CREATE INDEX t_b ON ONLY app.t (b)`, says: []string{"index app.t_b", "ATTACH PARTITION"}},
	{name: "index that a partition has unattached", sql: `CREATE TABLE app.t (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
		CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES FROM (1) TO (1000); CREATE INDEX t_b ON ONLY app.t (b); CREATE INDEX ON app.t_1 (b)`, says: []string{"index app.t_b", "ATTACH PARTITION"}},
	{name: "unique constraint that one of two partitions lacks", sql: `CREATE TABLE app.t (a int, b int) PARTITION BY RANGE (a);
		CREATE TABLE app.t_1 PARTITION OF app.t (PRIMARY KEY (a)) FOR VALUES FROM (1) TO (1000); CREATE TABLE app.t_2 PARTITION OF app.t (UNIQUE (a), PRIMARY KEY (b)) FOR VALUES FROM (1000) TO (2000);
		ALTER TABLE ONLY app.t ADD CONSTRAINT once UNIQUE (a); ALTER INDEX app.once ATTACH PARTITION app.t_2_a_key`, says: []string{`"app"."t_1"`, "index app.once", "ATTACH PARTITION"}},
}

func TestTrialRefuses(t *testing.T) {
	for _, c := range trialCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if db.Version() < c.since {
				return // the server does not know it
			}
			db.Exec(t, "CREATE SCHEMA app")
			db.Exec(t, c.sql)
			refused(t, db, "app.t", c.says...)
		})
	}
}
