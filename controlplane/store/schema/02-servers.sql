-- Several servers may share one database. Each says every few seconds that it lives.
CREATE TABLE servers (
	id       TEXT PRIMARY KEY,
	instance TEXT NOT NULL DEFAULT '', -- its process; '' once others have taken it for dead
	name     TEXT NOT NULL DEFAULT '', -- host name, for people
	version  TEXT NOT NULL DEFAULT '',
	boot     TEXT NOT NULL DEFAULT '', -- base URL of its boot listener, for the other servers
	started  BIGINT NOT NULL,
	seen     BIGINT NOT NULL
);

-- One row: the newest revision. It never goes back, whatever is deleted.
CREATE TABLE revision (rev BIGINT NOT NULL);
INSERT INTO revision (rev)
	SELECT COALESCE(MAX(n), 0) FROM (
		SELECT MAX(rev) AS n FROM chassis UNION ALL SELECT MAX(rev) FROM tasks UNION ALL
		SELECT MAX(number) FROM tasks UNION ALL SELECT MAX(rev) FROM events) AS newest;

-- The newest transaction of each process, by which it knows after a lost
-- connection whether its commit was made.
CREATE TABLE commits (
	instance TEXT PRIMARY KEY,
	server   TEXT NOT NULL,
	batch    BIGINT NOT NULL
);

-- Which servers have the file of which image.
CREATE TABLE image_copies (
	image  TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
	server TEXT NOT NULL,
	PRIMARY KEY (image, server)
);

-- What all servers of the database must agree on: the digest of the CA, ...
CREATE TABLE estate (
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
);

-- What one server at a time may do: who does, and until when.
CREATE TABLE leaderships (
	name   TEXT PRIMARY KEY,
	server TEXT NOT NULL,
	until  BIGINT NOT NULL
);

-- What has happened and is yet to be told on the bus, in order.
CREATE TABLE notices (
	number  BIGINT PRIMARY KEY,
	kind    TEXT NOT NULL,
	chassis TEXT NOT NULL DEFAULT '',
	subject TEXT NOT NULL DEFAULT '', -- id of what it is about: a graph, a task, ...
	data    TEXT NOT NULL DEFAULT '{}',
	time    BIGINT NOT NULL
);

ALTER TABLE chassis ADD COLUMN server TEXT NOT NULL DEFAULT ''; -- that holds its session
