-- Definitions of tasks and graphs that operators have added; JSON.
CREATE TABLE definitions (
	kind    TEXT NOT NULL, -- "task" or "graph"
	name    TEXT NOT NULL,
	body    TEXT NOT NULL,
	created BIGINT NOT NULL,
	PRIMARY KEY (kind, name)
);

-- A graph: tasks of which each starts when those it waits for have ended as it wants.
CREATE TABLE graphs (
	id       TEXT PRIMARY KEY,
	number   BIGINT NOT NULL UNIQUE, -- in the order of creation
	name     TEXT NOT NULL,
	friendly TEXT NOT NULL DEFAULT '',
	domain   TEXT NOT NULL DEFAULT 'default',
	chassis  TEXT REFERENCES chassis (id), -- NULL: of no chassis
	parent   TEXT NOT NULL DEFAULT '',     -- task whose job is to run this graph
	root     TEXT NOT NULL DEFAULT '',     -- the outermost graph it is inside of; itself, if in none
	depth    INTEGER NOT NULL DEFAULT 0,   -- how many graphs it is inside of
	author   TEXT NOT NULL DEFAULT '',
	state    TEXT NOT NULL,
	msg      TEXT NOT NULL DEFAULT '',
	paused   INTEGER NOT NULL DEFAULT 0,
	cancel   INTEGER NOT NULL DEFAULT 0, -- asked for
	body     TEXT NOT NULL DEFAULT '{}', -- its definition, JSON
	created  BIGINT NOT NULL,
	started  BIGINT,
	finished BIGINT,
	rev      BIGINT NOT NULL
);

CREATE TABLE tasks_of_graphs (
	id             TEXT PRIMARY KEY,
	number         BIGINT NOT NULL UNIQUE,
	graph          TEXT NOT NULL REFERENCES graphs (id),
	chassis        TEXT REFERENCES chassis (id),
	position       INTEGER NOT NULL, -- in its graph, from 0
	label          TEXT NOT NULL,    -- its name in the graph
	name           TEXT NOT NULL,    -- of its definition
	friendly       TEXT NOT NULL DEFAULT '',
	job            TEXT NOT NULL,
	kind           TEXT NOT NULL,    -- who does it: agent, local, outside, graph, connected
	waits          TEXT NOT NULL DEFAULT '{}', -- for what, JSON
	terminal       TEXT NOT NULL DEFAULT '[]', -- states that no other task waits for, JSON
	ready          INTEGER NOT NULL DEFAULT 0, -- what it waits for is there
	skipped        INTEGER NOT NULL DEFAULT 0, -- what it waits for can be no more
	ignore_failure INTEGER NOT NULL DEFAULT 0,
	time_limit     BIGINT NOT NULL DEFAULT 0, -- ms from its start; 0: none
	deadline       BIGINT,
	retries        INTEGER NOT NULL DEFAULT 0, -- that are left
	retry_delay    BIGINT NOT NULL DEFAULT 0, -- ms
	attempt        INTEGER NOT NULL DEFAULT 1,
	superseded     INTEGER NOT NULL DEFAULT 0, -- another attempt has taken its place
	not_before     BIGINT NOT NULL DEFAULT 0,
	options        TEXT NOT NULL DEFAULT '{}', -- JSON; holds secrets
	late           INTEGER NOT NULL DEFAULT 0, -- options have templates to fill in at the start
	method         TEXT NOT NULL DEFAULT '',
	params         TEXT NOT NULL DEFAULT '{}', -- of the command, without task_id; holds secrets
	state          TEXT NOT NULL,
	percent        DOUBLE PRECISION NOT NULL DEFAULT 0,
	eta            DOUBLE PRECISION, -- seconds
	step           TEXT NOT NULL DEFAULT '',
	msg            TEXT NOT NULL DEFAULT '',
	result         TEXT,
	seq            BIGINT NOT NULL DEFAULT 0, -- of the newest update, within boot_id
	boot_id        TEXT NOT NULL DEFAULT '',
	server         TEXT NOT NULL DEFAULT '', -- that does it, of a local task
	instance       TEXT NOT NULL DEFAULT '', -- of that server
	lease          TEXT NOT NULL DEFAULT '', -- differs for every start of a local task
	cancel         INTEGER NOT NULL DEFAULT 0, -- 1: asked for, 2: its time is over
	cancelled      BIGINT, -- when that was
	created        BIGINT NOT NULL,
	started        BIGINT,
	finished       BIGINT,
	rev            BIGINT NOT NULL
);

INSERT INTO graphs (id, number, root, name, friendly, chassis, state, created, started, finished, rev)
	SELECT r.id, MIN(t.number), r.id, CASE r.kind WHEN 'decommission' THEN 'Graph.Decommission' WHEN 'provision' THEN 'Graph.Provision' ELSE r.kind END,
		'', r.chassis,
		CASE
			WHEN SUM(CASE WHEN t.state IN ('pending', 'sent', 'running') THEN 1 ELSE 0 END) > 0 THEN
				CASE WHEN SUM(CASE WHEN t.state <> 'pending' THEN 1 ELSE 0 END) > 0 THEN 'running' ELSE 'pending' END
			WHEN SUM(CASE WHEN t.state = 'error' THEN 1 ELSE 0 END) > 0 THEN 'failed'
			WHEN SUM(CASE WHEN t.state = 'cancelled' THEN 1 ELSE 0 END) > 0 THEN 'cancelled'
			ELSE 'succeeded'
		END,
		r.created, MIN(t.started),
		CASE WHEN SUM(CASE WHEN t.state IN ('pending', 'sent', 'running') THEN 1 ELSE 0 END) > 0 THEN NULL ELSE MAX(t.finished) END,
		MAX(t.rev)
	FROM runs r JOIN tasks t ON t.run = r.id GROUP BY r.id, r.kind, r.chassis, r.created;

INSERT INTO tasks_of_graphs (id, number, graph, chassis, position, label, name, job, kind, waits, ready, method, params,
		state, percent, eta, step, msg, result, seq, boot_id, cancel, created, started, finished, rev)
	SELECT t.id, t.number, t.run, t.chassis, t.position, t.method, t.method, t.method, 'agent',
		CASE WHEN t.waits_for IS NULL THEN '{}' ELSE '{"all":{"' || (SELECT b.method FROM tasks b WHERE b.id = t.waits_for) || '":["succeeded"]}}' END,
		CASE WHEN t.waits_for IS NULL OR t.state <> 'pending' OR EXISTS (SELECT 1 FROM tasks b WHERE b.id = t.waits_for AND b.state = 'complete') THEN 1 ELSE 0 END,
		t.method, t.params,
		CASE t.state WHEN 'complete' THEN 'succeeded' WHEN 'error' THEN 'failed' WHEN 'sent' THEN 'running' ELSE t.state END,
		t.percent, t.eta, t.step, t.msg, t.result, t.seq, t.boot_id, t.cancel, t.created, t.started, t.finished, t.rev
	FROM tasks t;

CREATE TABLE tokens_of_graphs (
	token_sha256 TEXT PRIMARY KEY,
	chassis      TEXT NOT NULL REFERENCES chassis (id),
	task         TEXT NOT NULL REFERENCES tasks_of_graphs (id),
	created      BIGINT NOT NULL,
	used         BIGINT
);
INSERT INTO tokens_of_graphs (token_sha256, chassis, task, created, used) SELECT token_sha256, chassis, task, created, used FROM phone_home;
DROP TABLE phone_home;
DROP TABLE tasks;
DROP TABLE runs;
ALTER TABLE tasks_of_graphs RENAME TO tasks;
ALTER TABLE tokens_of_graphs RENAME TO phone_home;

CREATE INDEX graphs_chassis ON graphs (chassis, state);
CREATE INDEX graphs_state ON graphs (state);
CREATE INDEX graphs_parent ON graphs (parent);
CREATE INDEX graphs_root ON graphs (root);
CREATE INDEX graphs_rev ON graphs (rev);
CREATE INDEX tasks_chassis ON tasks (chassis, state);
CREATE INDEX tasks_state ON tasks (state);
CREATE INDEX tasks_graph ON tasks (graph, position);
CREATE INDEX tasks_rev ON tasks (rev);
CREATE INDEX phone_home_chassis ON phone_home (chassis);
