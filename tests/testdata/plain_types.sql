CREATE SCHEMA app;
CREATE TABLE app.t (
    id            int  PRIMARY KEY,
    gone          int,
    bool          bool,
    i2            int2,
    i8            int8,
    oid           oid,
    f4            float4,
    f8            float8,
    n             numeric,
    n2            numeric(8, 2),
    text          text,
    varchar       varchar(9),
    bpchar        char(5),
    name          name,
    bytea         bytea,
    date          date,
    time          time(3),
    timetz        timetz,
    ts            timestamp,
    tstz          timestamptz(0),
    interval      interval,
    uuid          uuid,
    bit           bit(3),
    varbit        varbit,
    inet          inet,
    cidr          cidr,
    mac           macaddr,
    twice         int8 GENERATED ALWAYS AS (id * 2) STORED,
    "Odd; ""Name" text DEFAULT 'x'
);
ALTER TABLE app.t DROP COLUMN gone;
INSERT INTO app.t (id) SELECT g FROM generate_series(1, 3000) g;
INSERT INTO app.t
VALUES (-1, true, -32768, -9223372036854775808, 4294967295, '-0', '-0', '1.000', '-0.00', '', '', '', '', '\x',
       '-infinity', '00:00', '00:00+15:59', '-infinity', '-infinity', '-178000000 years',
       '00000000-0000-0000-0000-000000000000', B'000', B'', '::', '::/0', '00:00:00:00:00:00'),
       (-2, false, 32767, 9223372036854775807, 0, 'NaN', '5e-324', 'NaN', '999999.99', E'\n\\N\t\u00e9\U0001F600', 'é',
       'é', 'x', '\x00ff', 'infinity', '24:00', '24:00-15:59', 'infinity', 'infinity', '1 mon -1 day 00:00:00.000001',
       'ffffffff-ffff-ffff-ffff-ffffffffffff', B'111', B'101', '10.1.2.3/8', '10.0.0.0/8', 'ff:ff:ff:ff:ff:ff'),
       (-3, NULL, 0, 0, 1, '-Infinity', 'Infinity', '-1e-1000', 1, repeat('x', 1500), 'a ', 'a  ', 'y', '\x5c2e',
       '4713-01-01 BC', '12:00:00.001', '12:00+00:30', '4713-01-01 BC', '294276-12-31', '-00:00:00.000001',
       'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', B'010', B'0', 'fe80::1/64', 'fe80::/64', '01:02:03:04:05:06')
