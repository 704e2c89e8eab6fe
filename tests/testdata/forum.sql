-- A forum: members, threads, posts, moderation, private messages.
-- {alice} runs it, {bob} is its application, {carol} moderates.
-- What is between "--N+" and "--end" is for PostgreSQL N and later.

CREATE SCHEMA forum;
CREATE SCHEMA private;
CREATE SCHEMA search;
GRANT USAGE ON SCHEMA forum, private, search TO {alice}, {bob}, {carol};
GRANT CREATE ON SCHEMA forum TO {alice};
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {carol};
ALTER DEFAULT PRIVILEGES IN SCHEMA private REVOKE ALL ON TABLES FROM {carol};
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TYPE forum.rank AS ENUM ('guest', 'member', 'Moderator; level 2', 'admin');
CREATE TYPE forum.device AS (agent text, addr inet);
CREATE DOMAIN forum.nick AS varchar(30) CHECK (VALUE ~ '^\S+$');
CREATE COLLATION forum.plain FROM "C";
CREATE SEQUENCE forum.things START 1 INCREMENT 10 CACHE 2;

CREATE FUNCTION forum.member_id() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('forum.member', true), '')::bigint $$;
GRANT EXECUTE ON FUNCTION forum.member_id() TO PUBLIC;

CREATE TABLE forum.members (
    id        bigint PRIMARY KEY DEFAULT nextval('forum.things'),
    nick      forum.nick COLLATE forum.plain NOT NULL,
    rank      forum.rank NOT NULL DEFAULT 'member',
    inviter   bigint REFERENCES forum.members ON DELETE SET NULL,
    devices   forum.device[],
    about     text,
    posts     int NOT NULL DEFAULT 0,
    joined    timestamp(0) DEFAULT '2024-01-01',
    last_seen timestamptz
) WITH (fillfactor = 70, toast.autovacuum_enabled = false);
ALTER SEQUENCE forum.things OWNED BY forum.members.id;
CREATE UNIQUE INDEX members_nick ON forum.members (lower(nick::text) COLLATE "C" text_pattern_ops);
CREATE INDEX ON forum.members (rank, last_seen DESC NULLS LAST) WHERE last_seen IS NOT NULL;
CREATE TABLE forum.groups (id smallint GENERATED ALWAYS AS IDENTITY (MINVALUE -5 START -5) PRIMARY KEY, name text UNIQUE DEFERRABLE);
CREATE TABLE forum.group_members (
    "group" smallint REFERENCES forum.groups ON DELETE CASCADE,
    member  bigint REFERENCES forum.members ON DELETE CASCADE,
    since   tsrange NOT NULL DEFAULT tsrange('2024-01-01', NULL),
    PRIMARY KEY ("group", member)
);
CREATE TABLE forum.boards (
    path   text COLLATE "C" PRIMARY KEY,
    parent text REFERENCES forum.boards ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE,
    title  text NOT NULL,
    "order" int NOT NULL,
    hidden bool NOT NULL DEFAULT false,
    last_thread bigint,
    CONSTRAINT "own parent" CHECK (parent <> path) NO INHERIT
);
CREATE TABLE forum.threads (
    id     bigint PRIMARY KEY DEFAULT nextval('forum.things'),
    board  text NOT NULL REFERENCES forum.boards ON UPDATE CASCADE,
    title  text NOT NULL,
    opener bigint REFERENCES forum.members ON DELETE SET NULL,
    first_post bigint,
    last_post  bigint,
    replies int NOT NULL DEFAULT 0,
    pinned bool,
    tags   text[] NOT NULL DEFAULT '{}',
    EXCLUDE USING btree (first_post WITH =) WHERE (first_post IS NOT NULL)
);
ALTER TABLE forum.boards ADD CONSTRAINT boards_last_thread FOREIGN KEY (last_thread) REFERENCES forum.threads ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX threads_board ON forum.threads (board, pinned DESC NULLS LAST, id DESC) INCLUDE (title);
CREATE INDEX ON forum.threads USING gin (tags);
ALTER TABLE forum.threads CLUSTER ON threads_board;
CREATE TABLE forum.posts (
    gone    int,
    id      bigint PRIMARY KEY DEFAULT nextval('forum.things'),
    thread  bigint NOT NULL REFERENCES forum.threads ON DELETE CASCADE,
    author  bigint REFERENCES forum.members ON DELETE SET NULL,
    answers bigint REFERENCES forum.posts ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    body    text NOT NULL,
    words   tsvector GENERATED ALWAYS AS (to_tsvector('pg_catalog.simple', body)) STORED,
    length  int GENERATED ALWAYS AS (length(body)) STORED,
    hidden  bool NOT NULL DEFAULT false,
    meta    jsonb,
    UNIQUE (thread, id)
);
ALTER TABLE forum.posts DROP COLUMN gone;
ALTER TABLE forum.threads ADD CONSTRAINT threads_first FOREIGN KEY (first_post) REFERENCES forum.posts DEFERRABLE INITIALLY DEFERRED,
    ADD CONSTRAINT threads_last FOREIGN KEY (id, last_post) REFERENCES forum.posts (thread, id) DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX posts_words ON forum.posts USING gin (words);
CREATE INDEX ON forum.posts USING brin (id, length) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX ON forum.posts ((meta ->> 'ip')) WHERE meta ? 'ip';
ALTER TABLE forum.posts ALTER body SET STORAGE MAIN, ALTER thread SET STATISTICS 1000;
ALTER TABLE forum.threads REPLICA IDENTITY FULL;
CREATE TABLE forum.revisions (post bigint REFERENCES forum.posts ON DELETE CASCADE, n int, body text, PRIMARY KEY (post, n));
CREATE TABLE forum.reactions (post bigint REFERENCES forum.posts ON DELETE CASCADE, member bigint REFERENCES forum.members ON DELETE CASCADE, emoji text COLLATE "C", PRIMARY KEY (post, member, emoji));
CREATE TABLE forum.attachments (id uuid PRIMARY KEY, post bigint REFERENCES forum.posts ON DELETE SET NULL, name text, data bytea, sum bytea GENERATED ALWAYS AS (sha256(data)) STORED);
ALTER TABLE forum.attachments ALTER data SET STORAGE EXTERNAL;
CREATE TABLE forum.polls (thread bigint PRIMARY KEY REFERENCES forum.threads ON DELETE CASCADE, question xml, during tstzrange);
CREATE TABLE forum.poll_options (thread bigint REFERENCES forum.polls ON DELETE CASCADE, n int, text text, PRIMARY KEY (thread, n));
CREATE TABLE forum.votes (thread bigint, n int, member bigint NOT NULL REFERENCES forum.members ON DELETE CASCADE,
    CONSTRAINT votes_option FOREIGN KEY (thread, n) REFERENCES forum.poll_options MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT "one vote" UNIQUE (thread, member));
ALTER TABLE forum.votes ALTER thread SET NOT NULL;
CREATE TABLE forum.bans (id serial PRIMARY KEY, member bigint NOT NULL REFERENCES forum.members ON DELETE CASCADE, addr cidr, during daterange NOT NULL, EXCLUDE USING gist (int8range(member, member, '[]') WITH &&, during WITH &&));
CREATE INDEX ON forum.bans USING gist (addr inet_ops);
CREATE TABLE forum.reports (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, post bigint REFERENCES forum.posts ON DELETE CASCADE, reporter bigint REFERENCES forum.members, reason text, closed_by bigint);
ALTER TABLE forum.reports ADD CONSTRAINT reports_closed_by FOREIGN KEY (closed_by) REFERENCES forum.members NOT VALID;
CREATE TABLE forum.subscriptions (member bigint REFERENCES forum.members ON DELETE CASCADE, thread bigint REFERENCES forum.threads ON DELETE CASCADE, PRIMARY KEY (member, thread));
CREATE TABLE forum.badges (name text PRIMARY KEY, description text, rule jsonpath);
CREATE TABLE forum.member_badges (member bigint REFERENCES forum.members ON DELETE CASCADE, badge text DEFAULT 'none' REFERENCES forum.badges ON UPDATE CASCADE ON DELETE SET DEFAULT, given date, PRIMARY KEY (member, badge));
CREATE TABLE private.messages (id bigserial PRIMARY KEY, sender bigint REFERENCES forum.members ON DELETE SET NULL, subject text, body text, sent timestamptz DEFAULT '2024-01-01 00:00Z');
CREATE TABLE private.recipients (message bigint REFERENCES private.messages ON DELETE CASCADE, member bigint REFERENCES forum.members ON DELETE CASCADE, read bool, PRIMARY KEY (message, member));
CREATE TABLE private.members (id bigint PRIMARY KEY REFERENCES forum.members ON DELETE CASCADE ON UPDATE CASCADE, password bytea, email text UNIQUE);
CREATE TABLE private.posts (id bigint GENERATED ALWAYS AS IDENTITY, draft text, PRIMARY KEY (id));
CREATE UNLOGGED TABLE private.tokens (token text COLLATE "C" PRIMARY KEY, member bigint NOT NULL, n smallserial);
CREATE TABLE search.queue (post bigint PRIMARY KEY REFERENCES forum.posts ON DELETE CASCADE, tries int NOT NULL DEFAULT 0);
CREATE TABLE search.words (word text, n int);
CREATE UNIQUE INDEX words_key ON search.words (word);
ALTER TABLE search.words ALTER word SET NOT NULL, REPLICA IDENTITY USING INDEX words_key;
CREATE TABLE forum.journal (what text, who text DEFAULT current_user);
CREATE TABLE forum.base (id int PRIMARY KEY);
CREATE TABLE forum.derived (extra text) INHERITS (forum.base);
CREATE TYPE forum.setting AS (key text, value text);
CREATE TABLE forum.settings OF forum.setting (PRIMARY KEY (key));

CREATE FUNCTION forum.tally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE forum.members SET posts = posts + 1 WHERE id = NEW.author;
        UPDATE forum.threads SET replies = replies + 1, last_post = NEW.id WHERE id = NEW.thread;
        INSERT INTO search.queue (post) VALUES (NEW.id);
    ELSE
        UPDATE forum.members SET posts = posts - 1 WHERE id = OLD.author;
        UPDATE forum.threads SET replies = replies - 1, last_post = (SELECT max(id) FROM forum.posts WHERE thread = OLD.thread),
            first_post = nullif(first_post, OLD.id) WHERE id = OLD.thread;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION forum.keep_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO forum.revisions SELECT OLD.id, coalesce(max(n), 0) + 1, OLD.body FROM forum.revisions WHERE post = OLD.id;
    RETURN NEW;
END $$;
CREATE FUNCTION forum.journal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO forum.journal (what) VALUES (concat_ws(' ', TG_ARGV[0], TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_LEVEL)); RETURN NULL; END $$;
CREATE FUNCTION forum.no_orphans() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NOT EXISTS (SELECT FROM forum.posts WHERE thread = NEW.id) AND NEW.replies > 0 THEN RAISE check_violation; END IF; RETURN NULL; END $$;
CREATE FUNCTION forum.count_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO forum.journal (what) SELECT 'reactions ' || count(*) FROM changed; RETURN NULL; END $$;
CREATE TRIGGER tally AFTER INSERT OR DELETE ON forum.posts FOR EACH ROW EXECUTE FUNCTION forum.tally();
CREATE TRIGGER keep_revision BEFORE UPDATE OF body ON forum.posts FOR EACH ROW WHEN (OLD.body IS DISTINCT FROM NEW.body) EXECUTE FUNCTION forum.keep_revision();
CREATE TRIGGER "Journal; posts" AFTER UPDATE OR TRUNCATE ON forum.posts EXECUTE FUNCTION forum.journal('it''s "posts"');
CREATE CONSTRAINT TRIGGER no_orphans AFTER INSERT OR UPDATE ON forum.threads DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION forum.no_orphans();
CREATE TRIGGER added AFTER INSERT ON forum.reactions REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION forum.count_changed();
CREATE TRIGGER removed AFTER DELETE ON forum.reactions REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION forum.count_changed();
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON forum.bans FOR EACH ROW EXECUTE FUNCTION forum.journal();
CREATE TRIGGER journal AFTER UPDATE ON forum.members FOR EACH ROW WHEN (OLD.rank < NEW.rank) EXECUTE FUNCTION forum.journal('up');
CREATE TRIGGER replica AFTER UPDATE ON forum.members FOR EACH ROW EXECUTE FUNCTION forum.journal('replica');
ALTER TABLE forum.members ENABLE REPLICA TRIGGER replica;
CREATE TRIGGER unused BEFORE DELETE ON private.messages FOR EACH ROW EXECUTE FUNCTION forum.journal();
ALTER TABLE private.messages DISABLE TRIGGER unused;
COMMENT ON TRIGGER tally ON forum.posts IS 'counters';
CREATE RULE no_delete AS ON DELETE TO forum.badges DO INSTEAD NOTHING;
CREATE RULE journal AS ON UPDATE TO forum.badges WHERE OLD.name <> NEW.name DO ALSO INSERT INTO forum.journal (what) VALUES ('badge ' || NEW.name);

INSERT INTO forum.members (nick, rank, inviter, devices, about)
SELECT 'nick' || g, (enum_range(NULL::forum.rank))[1 + g % 4], NULL, ARRAY[ROW('agent', '10.0.0.1')::forum.device], repeat('about ', g % 40) FROM generate_series(1, 500) g;
UPDATE forum.members SET inviter = id - 20 WHERE id > 100;
INSERT INTO forum.groups (name) SELECT 'group' || g FROM generate_series(1, 20) g;
INSERT INTO forum.group_members SELECT g % 20 - 5, 1 + g * 10 FROM generate_series(1, 200) g;
INSERT INTO forum.boards (path, title, "order") VALUES ('/', 'all', 0);
INSERT INTO forum.boards SELECT '/' || g, '/', 'Board ' || g, g FROM generate_series(1, 40) g;
INSERT INTO forum.threads (id, board, title, opener, tags) SELECT 100000 + g, '/' || 1 + g % 40, 'Thread ' || g, 1 + (g % 500) * 10, ARRAY['t' || g % 7] FROM generate_series(1, 300) g;
INSERT INTO forum.posts (id, thread, author, answers, body, meta) SELECT 200000 + g, 100001 + g % 300, 1 + (g % 500) * 10, CASE WHEN g % 3 = 0 THEN 200000 + g / 2 END, repeat('body ' || g || ' ', 1 + g % 60), jsonb_build_object('ip', g) FROM generate_series(1, 1500) g;
UPDATE forum.threads SET first_post = (SELECT min(id) FROM forum.posts WHERE thread = threads.id);
UPDATE forum.boards SET last_thread = (SELECT max(id) FROM forum.threads WHERE board = path);
UPDATE forum.posts SET body = body || '!' WHERE id % 10 = 0;
INSERT INTO forum.reactions SELECT 200000 + g, 1 + (g % 400) * 10, '👍' FROM generate_series(1, 800) g;
INSERT INTO forum.attachments SELECT md5(g::text)::uuid, 200000 + g, 'file ' || g, decode(repeat(md5(g::text), g), 'hex') FROM generate_series(1, 60) g;
INSERT INTO forum.polls SELECT 100000 + g, '<q/>', '[2024-01-01, 2030-01-01)' FROM generate_series(1, 30) g;
INSERT INTO forum.poll_options SELECT 100000 + g, n, 'option ' || n FROM generate_series(1, 30) g, generate_series(1, 4) n;
INSERT INTO forum.votes SELECT 100000 + g, 1 + m % 4, 1 + m * 10 FROM generate_series(1, 30) g, generate_series(1, 20) m;
INSERT INTO forum.bans (member, addr, during) SELECT 1 + g * 10, '10.0.0.0/8', daterange('2024-01-01', '2024-02-01') FROM generate_series(1, 50) g;
ALTER TABLE forum.reports DISABLE TRIGGER ALL;
INSERT INTO forum.reports (post, reporter, reason, closed_by) SELECT 200000 + g, 1 + g * 10, 'r', CASE WHEN g > 30 THEN 5 END FROM generate_series(1, 40) g;
ALTER TABLE forum.reports ENABLE TRIGGER ALL;
INSERT INTO forum.subscriptions SELECT 1 + g * 10, 100001 + g % 300 FROM generate_series(1, 400) g;
INSERT INTO forum.badges SELECT 'badge' || g, 'd', '$.a' FROM generate_series(1, 20) g; INSERT INTO forum.badges VALUES ('none');
INSERT INTO forum.member_badges SELECT 1 + g * 10, 'badge' || 1 + g % 20 FROM generate_series(1, 100) g;
INSERT INTO private.messages (sender, subject, body) SELECT 1 + g * 10, 's', repeat('x', g) FROM generate_series(1, 200) g;
INSERT INTO private.recipients SELECT g, 1 + g * 10 + 10 FROM generate_series(1, 200) g;
INSERT INTO private.members SELECT 1 + g * 10, '\x00', 'm' || g FROM generate_series(1, 300) g;
INSERT INTO private.posts (draft) SELECT 'draft ' || g FROM generate_series(1, 50) g;
INSERT INTO private.tokens SELECT md5(g::text), 1 FROM generate_series(1, 50) g;
INSERT INTO search.words SELECT 'word' || g, g FROM generate_series(1, 500) g;
INSERT INTO forum.base VALUES (1); INSERT INTO forum.derived VALUES (2, 'x'); INSERT INTO forum.settings VALUES ('a', 'b');

SET CONSTRAINTS ALL IMMEDIATE;

CREATE VIEW forum.visible WITH (security_barrier) AS SELECT * FROM forum.posts WHERE NOT hidden WITH LOCAL CHECK OPTION;
CREATE VIEW forum.thread_list AS SELECT t.id, t.title, b.title AS board, m.nick, count(p.id) AS posts FROM forum.threads t JOIN forum.boards b ON b.path = t.board LEFT JOIN forum.members m ON m.id = t.opener LEFT JOIN forum.visible p ON p.thread = t.id GROUP BY t.id, b.path, m.id;
CREATE VIEW search.top AS SELECT board, max(posts) AS max, string_agg(nick, ',' ORDER BY id) AS nicks FROM forum.thread_list GROUP BY board;
CREATE VIEW forum.threads_json AS SELECT to_jsonb(t) AS j FROM forum.threads t;
CREATE VIEW private.posts_of_all AS SELECT id, draft AS text FROM private.posts UNION ALL SELECT id, body FROM forum.posts;
CREATE VIEW forum.messages AS SELECT m.id, m.subject, r.member FROM private.messages m JOIN private.recipients r ON r.message = m.id;
CREATE RULE send AS ON INSERT TO forum.messages DO INSTEAD (INSERT INTO private.messages (id, sender, subject) VALUES (NEW.id, 1, NEW.subject); INSERT INTO private.recipients VALUES (NEW.id, NEW.member));
COMMENT ON RULE send ON forum.messages IS 'by the view';
COMMENT ON VIEW forum.visible IS 'not hidden'; COMMENT ON COLUMN forum.thread_list.nick IS 'of the opener';
CREATE FUNCTION forum.posts_of(m bigint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = forum RETURN (SELECT count(*) FROM forum.posts WHERE author = m);
CREATE FUNCTION search.find(q text, OUT id bigint, OUT title text) RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC SELECT t.id, t.title FROM forum.threads t JOIN forum.posts p ON p.thread = t.id WHERE p.words @@ plainto_tsquery('simple', q) GROUP BY t.id, t.title; END;
GRANT EXECUTE ON FUNCTION forum.posts_of(bigint) TO {bob}, PUBLIC;
ALTER FUNCTION search.find OWNER TO {alice};
COMMENT ON FUNCTION search.find IS 'full text';
CREATE STATISTICS search.posts_statistics (dependencies, ndistinct) ON thread, author, hidden FROM forum.posts;
CREATE STATISTICS forum.lower_nick ON lower(nick::text) FROM forum.members;

ALTER TABLE forum.bans OWNER TO {alice};
ALTER TABLE forum.reports OWNER TO {alice};
GRANT SELECT ON forum.members, forum.posts TO {alice} WITH GRANT OPTION;
GRANT REFERENCES ON forum.members, forum.posts TO {alice};
GRANT UPDATE (body, hidden) ON forum.posts TO {bob} WITH GRANT OPTION;
SET ROLE {bob}; GRANT UPDATE (hidden) ON forum.posts TO {carol}; RESET ROLE;
SET ROLE {alice}; GRANT SELECT ON forum.members TO {bob}; GRANT SELECT ON forum.posts TO PUBLIC; REVOKE TRUNCATE ON forum.bans FROM {alice}; RESET ROLE;
REVOKE SELECT ON private.messages FROM {carol};
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA private TO {bob};
GRANT USAGE, SELECT ON SEQUENCE private.messages_id_seq TO {bob};
ALTER TABLE private.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE private.recipients ENABLE ROW LEVEL SECURITY;
ALTER TABLE forum.posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON private.messages USING (sender = forum.member_id() OR EXISTS (SELECT FROM private.recipients r WHERE r.message = messages.id AND r.member = forum.member_id()));
CREATE POLICY mine ON private.recipients FOR SELECT USING (member = forum.member_id());
CREATE POLICY known ON private.recipients FOR INSERT TO {bob} WITH CHECK (member IN (SELECT id FROM forum.members WHERE rank <> 'guest') AND NOT EXISTS (SELECT FROM forum.bans b WHERE b.member = recipients.member));
CREATE POLICY open ON forum.posts USING (NOT hidden OR pg_has_role('{carol}', 'MEMBER')) WITH CHECK (true);
CREATE POLICY "threads; not hidden" ON forum.posts AS RESTRICTIVE FOR SELECT TO {bob}, {carol} USING (thread IN (SELECT t.id FROM forum.threads t JOIN forum.boards b ON b.path = t.board WHERE NOT b.hidden));
COMMENT ON POLICY open ON forum.posts IS 'open';
COMMENT ON TABLE forum.posts IS 'all that was said';
COMMENT ON COLUMN forum.posts.words IS 'words';
COMMENT ON CONSTRAINT threads_last ON forum.threads IS 'circle';
COMMENT ON CONSTRAINT reports_closed_by ON forum.reports IS 'not valid yet';
COMMENT ON INDEX forum.posts_words IS 'search';

CREATE PUBLICATION stream FOR TABLE forum.posts, forum.threads, search.words;
CREATE PUBLICATION moderation FOR TABLE forum.bans WITH (publish = 'insert, delete');
--15+
CREATE PUBLICATION public_posts FOR TABLE forum.posts (id, thread, body) WHERE (NOT hidden AND id > 100) WITH (publish = 'insert');
CREATE PUBLICATION searching FOR TABLES IN SCHEMA search;
ALTER TABLE private.members ADD phone text, ADD CONSTRAINT phones UNIQUE NULLS NOT DISTINCT (id, phone);
CREATE VIEW private.my_messages WITH (security_invoker, security_barrier) AS SELECT * FROM private.messages;
--end
--18+
ALTER TABLE forum.members ADD CONSTRAINT "has joined" NOT NULL joined, ADD greeting text GENERATED ALWAYS AS ('hello ' || about) VIRTUAL;
ALTER TABLE forum.bans ADD CONSTRAINT friendly CHECK (member > 100) NOT ENFORCED;
COMMENT ON CONSTRAINT "has joined" ON forum.members IS 'joined';
--end

CREATE PROCEDURE forum.work(n int) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    INSERT INTO forum.members (id, nick) VALUES (900000 + n, 'fresh' || n);
    UPDATE forum.members SET rank = 'admin' WHERE id = 1 + 10 * n;
    DELETE FROM forum.members WHERE id = 3001 + 10 * n;
    UPDATE private.members SET email = 'changed' || n WHERE id = 11 + n * 10;
    INSERT INTO forum.threads (id, board, title, opener) VALUES (300000 + n, '/1', 'New ' || n, 900000 + n);
    INSERT INTO forum.posts (id, thread, author, body) VALUES (400000 + n, 300000 + n, 900000 + n, 'first ' || n);
    INSERT INTO forum.posts (id, thread, author, answers, body) VALUES (500000 + n, 300000 + n, 21, 400000 + n, 'second ' || n);
    UPDATE forum.threads SET first_post = 400000 + n WHERE id = 300000 + n;
    UPDATE forum.boards SET last_thread = 300000 + n WHERE path = '/1';
    UPDATE forum.posts SET body = 'edited ' || n WHERE id = 200010 + n;
    DELETE FROM forum.posts WHERE id = 200500 + n;
    DELETE FROM forum.threads WHERE id = 100200 + n;
    UPDATE forum.boards SET path = '/moved' || n WHERE path = '/' || 2 + n % 30;
    INSERT INTO forum.reactions VALUES (400000 + n, 11, 'a'), (400000 + n, 21, 'b');
    DELETE FROM forum.reactions WHERE post = 200000 + n;
    INSERT INTO forum.votes VALUES (100001 + n % 30, 1, 2001 + 10 * n) ON CONFLICT DO NOTHING;
    UPDATE forum.poll_options o SET n = o.n + 10 WHERE o.thread = 100001 + n % 30 AND o.n = 2;
    INSERT INTO forum.bans (member, during) VALUES (4001 + 10 * n, '[2024-03-01, 2024-04-01)');
    UPDATE forum.bans SET addr = '11.0.0.0/8' WHERE id = n;
    UPDATE forum.badges SET name = 'renamed' || n WHERE name = 'badge' || 1 + n % 20;
    DELETE FROM forum.badges WHERE name = 'badge1';
    INSERT INTO forum.messages VALUES (10000 + n, 'by view ' || n, 11);
    INSERT INTO private.messages (sender, subject) VALUES (21, 'direct ' || n);
    INSERT INTO search.words VALUES ('new' || n, n) ON CONFLICT (word) DO UPDATE SET n = words.n + 1;
    UPDATE search.queue SET tries = tries + 1 WHERE post = 200020 + n;
    INSERT INTO private.tokens (token, member) VALUES ('t' || n, n);
    UPDATE forum.reports SET reason = 'seen ' || n WHERE id = n;
    INSERT INTO private.posts (draft) VALUES ('d' || n);
    UPDATE forum.groups SET name = name || n WHERE id = n % 20 - 5;
    UPDATE forum.attachments SET data = '\x01' WHERE id = md5(n::text)::uuid;
    DELETE FROM forum.subscriptions WHERE member = 1 + n * 10;
END $$;
