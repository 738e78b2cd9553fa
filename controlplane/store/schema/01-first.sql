-- Times are Unix milliseconds, booleans 0 or 1, JSON is text.
CREATE TABLE chassis (
	id         TEXT PRIMARY KEY,
	identity   TEXT NOT NULL UNIQUE, -- what it is recognised by: "uuid:..." or "mac:..."
	name       TEXT NOT NULL DEFAULT '',
	uuid       TEXT NOT NULL DEFAULT '',
	serial     TEXT NOT NULL DEFAULT '',
	mac        TEXT NOT NULL DEFAULT '',
	macs       TEXT NOT NULL DEFAULT '[]',
	version    TEXT NOT NULL DEFAULT '',
	boot_id    TEXT NOT NULL DEFAULT '',
	session    TEXT NOT NULL DEFAULT '',
	connected  INTEGER NOT NULL DEFAULT 0,
	address    TEXT NOT NULL DEFAULT '', -- its own
	endpoint   TEXT NOT NULL DEFAULT '', -- the host under which it reaches us
	last_seen  BIGINT NOT NULL,
	created    BIGINT NOT NULL,
	inspected  BIGINT,
	inventory  TEXT,
	phases     TEXT,
	failed     INTEGER NOT NULL DEFAULT 0, -- its last run did
	installed  BIGINT, -- an image was set running and nothing has overwritten it since
	in_service BIGINT, -- and it has called back
	rev        BIGINT NOT NULL
);
CREATE INDEX chassis_mac ON chassis (mac);
CREATE INDEX chassis_rev ON chassis (rev);

CREATE TABLE runs (
	id      TEXT PRIMARY KEY,
	chassis TEXT NOT NULL REFERENCES chassis (id),
	kind    TEXT NOT NULL,
	created BIGINT NOT NULL
);

CREATE TABLE tasks (
	id        TEXT PRIMARY KEY,
	number    BIGINT NOT NULL UNIQUE, -- in the order of creation
	run       TEXT NOT NULL REFERENCES runs (id),
	chassis   TEXT NOT NULL REFERENCES chassis (id),
	position  INTEGER NOT NULL, -- in its run, from 0
	waits_for TEXT REFERENCES tasks (id),
	method    TEXT NOT NULL,
	params    TEXT NOT NULL,
	state     TEXT NOT NULL,
	percent   DOUBLE PRECISION NOT NULL DEFAULT 0,
	eta       DOUBLE PRECISION, -- seconds
	step      TEXT NOT NULL DEFAULT '',
	msg       TEXT NOT NULL DEFAULT '',
	result    TEXT,
	seq       BIGINT NOT NULL DEFAULT 0, -- of the newest update, within boot_id
	boot_id   TEXT NOT NULL DEFAULT '',
	cancel    INTEGER NOT NULL DEFAULT 0,
	created   BIGINT NOT NULL,
	started   BIGINT,
	finished  BIGINT,
	rev       BIGINT NOT NULL
);
CREATE INDEX tasks_chassis ON tasks (chassis, state);
CREATE INDEX tasks_state ON tasks (state);
CREATE INDEX tasks_run ON tasks (run, position);
CREATE INDEX tasks_rev ON tasks (rev);

CREATE TABLE images (
	id      TEXT PRIMARY KEY,
	name    TEXT NOT NULL UNIQUE,
	format  TEXT NOT NULL,
	size    BIGINT NOT NULL,
	sha256  TEXT NOT NULL,
	created BIGINT NOT NULL
);

CREATE TABLE events (
	rev     BIGINT PRIMARY KEY,
	chassis TEXT NOT NULL REFERENCES chassis (id),
	time    BIGINT NOT NULL,
	message TEXT NOT NULL,
	fields  TEXT
);
CREATE INDEX events_chassis ON events (chassis, rev);

CREATE TABLE phone_home (
	token_sha256 TEXT PRIMARY KEY,
	chassis      TEXT NOT NULL REFERENCES chassis (id),
	task         TEXT NOT NULL REFERENCES tasks (id),
	created      BIGINT NOT NULL,
	used         BIGINT
);
CREATE INDEX phone_home_chassis ON phone_home (chassis);
