-- The management controller of a chassis.
CREATE TABLE bmcs (
	chassis     TEXT PRIMARY KEY REFERENCES chassis (id) ON DELETE CASCADE,
	protocol    TEXT NOT NULL,
	address     TEXT NOT NULL,
	username    TEXT NOT NULL,
	password    TEXT NOT NULL, -- sealed
	cert_sha256 TEXT NOT NULL DEFAULT '',
	insecure    INTEGER NOT NULL DEFAULT 0,
	system      TEXT NOT NULL DEFAULT '',
	updated     BIGINT NOT NULL
);

-- What is read again and again, and the rules that make alerts of it.
CREATE TABLE pollers (
	id       TEXT PRIMARY KEY,
	chassis  TEXT REFERENCES chassis (id) ON DELETE CASCADE, -- NULL: of a device that is no chassis
	kind     TEXT NOT NULL,
	name     TEXT NOT NULL DEFAULT '',
	period   BIGINT NOT NULL, -- ms
	paused   INTEGER NOT NULL DEFAULT 0,
	config   TEXT NOT NULL DEFAULT '{}', -- JSON; secrets in it are sealed
	rules    TEXT NOT NULL DEFAULT '[]', -- JSON
	state    TEXT NOT NULL DEFAULT '{}', -- what the rules remember, JSON
	next     BIGINT NOT NULL, -- when it is due
	server   TEXT NOT NULL DEFAULT '', -- that polls now, until when, and which time
	until    BIGINT NOT NULL DEFAULT 0,
	lease    TEXT NOT NULL DEFAULT '',
	polled   BIGINT, -- last tried
	answered BIGINT, -- last succeeded
	failures INTEGER NOT NULL DEFAULT 0, -- since then
	error    TEXT NOT NULL DEFAULT '',
	created  BIGINT NOT NULL
);
CREATE INDEX pollers_next ON pollers (next);
CREATE INDEX pollers_chassis ON pollers (chassis);

CREATE TABLE poller_results (
	poller TEXT NOT NULL REFERENCES pollers (id) ON DELETE CASCADE,
	number BIGINT NOT NULL,
	time   BIGINT NOT NULL,
	result TEXT NOT NULL, -- JSON
	PRIMARY KEY (poller, number)
);

CREATE TABLE alerts (
	id       TEXT PRIMARY KEY,
	number   BIGINT NOT NULL UNIQUE, -- in the order in which they were raised
	poller   TEXT NOT NULL REFERENCES pollers (id) ON DELETE CASCADE,
	chassis  TEXT NOT NULL DEFAULT '',
	kind     TEXT NOT NULL,
	rule     TEXT NOT NULL,
	item     TEXT NOT NULL DEFAULT '', -- the sensor, event or object that the rule is about
	severity TEXT NOT NULL,
	message  TEXT NOT NULL,
	value    TEXT NOT NULL DEFAULT '',
	raised   BIGINT NOT NULL,
	cleared  BIGINT,
	cleared_by TEXT NOT NULL DEFAULT '' -- a user; '': the rule
);
CREATE INDEX alerts_open ON alerts (poller, rule, item);
CREATE INDEX alerts_chassis ON alerts (chassis);
CREATE INDEX alerts_cleared ON alerts (cleared);

-- Kinds of machine, by rules over the inventory.
CREATE TABLE skus (
	id      TEXT PRIMARY KEY,
	name    TEXT NOT NULL UNIQUE,
	rules   TEXT NOT NULL, -- JSON
	graph   TEXT NOT NULL DEFAULT '', -- run when it is assigned
	options TEXT NOT NULL DEFAULT '{}', -- of the graph
	created BIGINT NOT NULL
);

-- How often the SKUs were changed; what was assigned by an earlier version is looked at anew.
CREATE TABLE sku_version (version BIGINT NOT NULL);
INSERT INTO sku_version (version) VALUES (1);

CREATE TABLE sku_assignments (
	chassis   TEXT PRIMARY KEY REFERENCES chassis (id) ON DELETE CASCADE,
	inspected BIGINT NOT NULL, -- the inventory that was looked at
	version   BIGINT NOT NULL, -- and the SKUs
	sku       TEXT NOT NULL DEFAULT '', -- '': none matches
	assigned  BIGINT,
	step      TEXT NOT NULL DEFAULT '', -- of the SKU's graph: '' none, waiting, starting, started, failed
	graph     TEXT NOT NULL DEFAULT '', -- its id
	error     TEXT NOT NULL DEFAULT '',
	not_before BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX sku_assignments_step ON sku_assignments (step);
