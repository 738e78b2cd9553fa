CREATE TABLE pollers (
	id      TEXT PRIMARY KEY,
	chassis TEXT NOT NULL,
	kind    TEXT NOT NULL,
	config  TEXT NOT NULL -- JSON
);
