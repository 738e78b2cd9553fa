-- Who may use the REST interface. The token in the data directory is no user of these.
CREATE TABLE users (
	name    TEXT PRIMARY KEY,
	role    TEXT NOT NULL, -- admin, operator, viewer
	created BIGINT NOT NULL
);

CREATE TABLE user_tokens (
	id        TEXT PRIMARY KEY,
	user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
	name      TEXT NOT NULL,
	role      TEXT NOT NULL,
	sha256    TEXT NOT NULL UNIQUE, -- of the token, which is kept nowhere
	created   BIGINT NOT NULL,
	expires   BIGINT,
	last_used BIGINT,
	UNIQUE (user_name, name)
);

-- Requests that change something, in the order of their ids (UUID version 7).
CREATE TABLE audit (
	id        TEXT PRIMARY KEY,
	time      BIGINT NOT NULL,
	user_name TEXT NOT NULL,
	token     TEXT NOT NULL DEFAULT '', -- its name
	address   TEXT NOT NULL DEFAULT '',
	method    TEXT NOT NULL,
	path      TEXT NOT NULL,
	target    TEXT NOT NULL DEFAULT '', -- what the path names, resolved: a chassis' id
	status    INTEGER NOT NULL DEFAULT 0, -- HTTP; 0: the server ended before it answered
	detail    TEXT NOT NULL DEFAULT '', -- of a refusal
	millis    BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX audit_user ON audit (user_name, id);
CREATE INDEX audit_target ON audit (target, id);

-- Specs that quality control compares chassis with, by name.
CREATE TABLE specs (
	name    TEXT PRIMARY KEY,
	body    TEXT NOT NULL, -- JSON, of package hwinfo/qc
	created BIGINT NOT NULL,
	updated BIGINT NOT NULL
);
