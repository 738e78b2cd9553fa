-- What operators have set of the server's configuration. Package settings knows
-- the keys; one that is absent has its default.
CREATE TABLE settings (
	key     TEXT PRIMARY KEY,
	value   TEXT NOT NULL, -- JSON
	author  TEXT NOT NULL DEFAULT '',
	changed BIGINT NOT NULL
);
