CREATE TABLE users (
	name    TEXT PRIMARY KEY,
	role    TEXT NOT NULL,
	created BIGINT NOT NULL
);
