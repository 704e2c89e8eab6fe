package tests

import (
	"testing"
)

// partitionKeyCases have app.t as a partition of a table with foreign keys.
var partitionKeyCases = []fidelityCase{
	// The parts of the key are not numbered in the order of the bounds, and one is missing.
	{name: "key to the partitioned table", sql: `CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
		CREATE TABLE app.gone PARTITION OF app.p FOR VALUES FROM (5000) TO (6000); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1000) TO (2000);
		CREATE TABLE app.c (p int REFERENCES app.p ON UPDATE CASCADE ON DELETE CASCADE); CREATE TABLE app.early PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE TABLE app."Rest; all" PARTITION OF app.p DEFAULT; ALTER TABLE app.p DETACH PARTITION app.gone; INSERT INTO app.p SELECT g, g FROM generate_series(1, 2500) g; INSERT INTO app.c SELECT generate_series(1, 2500, 7)`},
	{name: "keys of every kind to the partitioned table", sql: `CREATE SCHEMA "Other"; CREATE TABLE app.p (id int, a int, b int, PRIMARY KEY (id), UNIQUE (id, b), UNIQUE (b, id)) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); CREATE TABLE app.u PARTITION OF app.p FOR VALUES FROM (1000) TO (2000); INSERT INTO app.p SELECT g, g, g FROM generate_series(1, 1500) g;
		CREATE TABLE "Other"."t" (x int REFERENCES app.p ON UPDATE CASCADE ON DELETE SET NULL, y int REFERENCES app.p ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED, z int,
			CONSTRAINT "k; 2" FOREIGN KEY (z, y) REFERENCES app.p (id, b) MATCH FULL ON DELETE SET DEFAULT DEFERRABLE, FOREIGN KEY (z, y) REFERENCES app.p (b, id));
		INSERT INTO "Other"."t" VALUES (1, 2, 2), (NULL, NULL, NULL), (1400, 1300, 1300);
		CREATE TABLE app.late (x int); INSERT INTO app.late VALUES (99999); ALTER TABLE app.late ADD CONSTRAINT late FOREIGN KEY (x) REFERENCES app.p NOT VALID;
		COMMENT ON CONSTRAINT late ON app.late IS 'late'`},
	// The second key has the next number, and later partitions those after it.
	{name: "two keys whose parts are numbered alike", sql: `CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE app.u PARTITION OF app.p FOR VALUES FROM (1000) TO (2000);
		CREATE TABLE app.c (p int, FOREIGN KEY (p) REFERENCES app.p ON DELETE CASCADE); ALTER TABLE app.c ADD FOREIGN KEY (p) REFERENCES app.p;
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); INSERT INTO app.p SELECT generate_series(1, 1500); INSERT INTO app.c VALUES (5), (1300)`},
	{name: "keys to each level", sql: `CREATE SCHEMA "Up; per"; CREATE TABLE "Up; per"."The; root" (id int, r int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
		CREATE TABLE app."mid; dle" (r int NOT NULL, id int NOT NULL UNIQUE) PARTITION BY RANGE (id); CREATE TABLE app.t (x int, id int NOT NULL, r int NOT NULL); ALTER TABLE app.t DROP x;
		ALTER TABLE app."mid; dle" ATTACH PARTITION app.t FOR VALUES FROM (1) TO (1000); CREATE TABLE app.later PARTITION OF app."mid; dle" DEFAULT;
		ALTER TABLE "Up; per"."The; root" ATTACH PARTITION app."mid; dle" FOR VALUES IN (1, 2); CREATE TABLE app.other PARTITION OF "Up; per"."The; root" DEFAULT;
		CREATE TABLE app.c (id int, r int, FOREIGN KEY (id, r) REFERENCES "Up; per"."The; root" ON DELETE CASCADE, FOREIGN KEY (id) REFERENCES app."mid; dle" (id) ON DELETE SET NULL, FOREIGN KEY (id) REFERENCES app.t (id));
		CREATE TABLE app.d (id int CONSTRAINT c_id_fkey REFERENCES app."mid; dle" (id) DEFERRABLE);
		INSERT INTO "Up; per"."The; root" SELECT g, 1 + g % 2 FROM generate_series(1, 500) g; INSERT INTO app.c VALUES (1, 2), (2, 1); INSERT INTO app.d VALUES (3)`},
	{name: "key of the partitioned table", sql: `CREATE TABLE app.o (id int PRIMARY KEY, n int UNIQUE); INSERT INTO app.o SELECT g, g FROM generate_series(1, 500) g;
		CREATE TABLE app.p (id int PRIMARY KEY, a int DEFAULT 1, b int, CONSTRAINT "to; o" FOREIGN KEY (a) REFERENCES app.o ON UPDATE CASCADE ON DELETE SET DEFAULT,
			FOREIGN KEY (b) REFERENCES app.o (n) MATCH FULL ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); CREATE TABLE app.u PARTITION OF app.p FOR VALUES FROM (1000) TO (2000);
		COMMENT ON CONSTRAINT "to; o" ON app.t IS 'of t'; COMMENT ON CONSTRAINT "to; o" ON app.p IS 'of p'; INSERT INTO app.p SELECT g, 1 + g % 400, nullif(g % 300, 0) FROM generate_series(1, 1500) g`},
	// Two keys of the partition bear each other's name above, and one of its own that of a third.
	{name: "keys that bear other names above", sql: `CREATE TABLE app.o (id int PRIMARY KEY); INSERT INTO app.o SELECT generate_series(0, 100);
		CREATE TABLE app.t (id int PRIMARY KEY, a int CONSTRAINT two REFERENCES app.o, b int CONSTRAINT one REFERENCES app.o, c int CONSTRAINT mine REFERENCES app.o ON DELETE CASCADE, d int CONSTRAINT three REFERENCES app.o, e int CONSTRAINT four CHECK (e > 0));
		CREATE TABLE app.p (id int PRIMARY KEY, a int CONSTRAINT one REFERENCES app.o, b int CONSTRAINT two REFERENCES app.o, c int CONSTRAINT three REFERENCES app.o ON DELETE CASCADE, d int, e int CONSTRAINT four REFERENCES app.o) PARTITION BY RANGE (id);
		ALTER TABLE app.p ATTACH PARTITION app.t FOR VALUES FROM (1) TO (1000); COMMENT ON CONSTRAINT two ON app.t IS 'two'; ALTER TABLE app.t ADD CONSTRAINT again FOREIGN KEY (a) REFERENCES app.o;
		INSERT INTO app.p SELECT g, g % 100, g % 90, g % 80, g % 70, 1 + g % 60 FROM generate_series(1, 500) g`},
	{name: "key between partitioned tables, with levels", sql: `CREATE TABLE app.o (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE app.o2 PARTITION OF app.o FOR VALUES FROM (250) TO (600);
		CREATE TABLE app.p (id int, r int, a int, PRIMARY KEY (id, r)) PARTITION BY LIST (r); CREATE TABLE app.m PARTITION OF app.p FOR VALUES IN (1) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.m FOR VALUES FROM (1) TO (1000); ALTER TABLE app.p ADD FOREIGN KEY (a) REFERENCES app.o ON DELETE CASCADE; ALTER TABLE app.m ADD CONSTRAINT of_m FOREIGN KEY (id) REFERENCES app.o;
		CREATE TABLE app.o1 PARTITION OF app.o FOR VALUES FROM (0) TO (250); CREATE TABLE app.u PARTITION OF app.m DEFAULT; INSERT INTO app.o SELECT generate_series(0, 599); INSERT INTO app.p SELECT g, 1, g FROM generate_series(1, 500) g`},
	{name: "keys both ways", sql: `CREATE TABLE app.o (id int PRIMARY KEY); INSERT INTO app.o SELECT generate_series(0, 500); CREATE TABLE app.p (id int PRIMARY KEY, o int REFERENCES app.o ON DELETE CASCADE) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); CREATE TABLE app.rest PARTITION OF app.p DEFAULT; CREATE TABLE app.c (p int REFERENCES app.p ON DELETE CASCADE, o int REFERENCES app.o);
		ALTER TABLE app.o ADD p int REFERENCES app.p ON DELETE SET NULL; INSERT INTO app.p SELECT g, g % 400 FROM generate_series(1, 1200) g; UPDATE app.o SET p = id WHERE id > 0; INSERT INTO app.c VALUES (5, 6)`},
	{name: "keys between the partitions", sql: `CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); CREATE TABLE app.u PARTITION OF app.p FOR VALUES FROM (1000) TO (2000);
		INSERT INTO app.p SELECT g, g FROM generate_series(1, 1500) g; ALTER TABLE app.u ADD FOREIGN KEY (a) REFERENCES app.p; ALTER TABLE app.t ADD FOREIGN KEY (a) REFERENCES app.p; ALTER TABLE app.t ADD FOREIGN KEY (a) REFERENCES app.t`},
	{name: "set null of some columns", since: 15, sql: `CREATE TABLE app.o (a int, b int, PRIMARY KEY (a, b)); INSERT INTO app.o VALUES (1, 2);
		CREATE TABLE app.p (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES app.o ON DELETE SET NULL (b)) PARTITION BY RANGE (id); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE TABLE app.c (x int, y int, FOREIGN KEY (x) REFERENCES app.p ON DELETE SET NULL (x)); INSERT INTO app.p VALUES (1, 1, 2); INSERT INTO app.c VALUES (1)`},
	{name: "types and collations that differ", sql: `CREATE COLLATION app.german (provider = icu, locale = 'de'); CREATE DOMAIN app.word AS varchar(20); CREATE TABLE app.o (id text COLLATE "C" PRIMARY KEY, n bigint UNIQUE); INSERT INTO app.o SELECT 'k' || g, g FROM generate_series(1, 500) g;
		CREATE TABLE app.p (id int PRIMARY KEY, a app.word COLLATE app.german REFERENCES app.o, n smallint REFERENCES app.o (n)) PARTITION BY RANGE (id); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000); INSERT INTO app.p SELECT g, 'k' || g, g FROM generate_series(1, 500) g`},
	{name: "keys not valid above", since: 18, sql: `CREATE TABLE app.o (id int PRIMARY KEY); INSERT INTO app.o SELECT generate_series(1, 500); CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE TABLE app.u PARTITION OF app.p DEFAULT; INSERT INTO app.p SELECT g, g FROM generate_series(1, 1500) g WHERE g NOT BETWEEN 501 AND 999; ALTER TABLE app.p ADD FOREIGN KEY (a) REFERENCES app.o NOT VALID; ALTER TABLE app.t VALIDATE CONSTRAINT p_a_fkey`},
	{name: "keys not enforced", since: 18, sql: `CREATE TABLE app.o (id int PRIMARY KEY); CREATE TABLE app.p (id int PRIMARY KEY, a int REFERENCES app.o NOT ENFORCED) PARTITION BY RANGE (id); CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE TABLE app.c (p int REFERENCES app.p NOT ENFORCED); INSERT INTO app.p SELECT g, g FROM generate_series(1, 500) g; INSERT INTO app.c VALUES (77777)`},
}

// TestPartitionForeignKeys repacks a partition of each kind, there and back and there.
func TestPartitionForeignKeys(t *testing.T) {
	for _, c := range partitionKeyCases {
		t.Run(c.name, func(t *testing.T) { eachStrategy(t, c.run) })
	}
}
