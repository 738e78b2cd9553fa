-- Several servers may share one database. Each says every few seconds that it lives.
CREATE TABLE servers (
	id      TEXT PRIMARY KEY,
	name    TEXT NOT NULL DEFAULT '', -- host name, for people
	version TEXT NOT NULL DEFAULT '',
	boot    TEXT NOT NULL DEFAULT '', -- base URL of its boot listener, for the other servers
	started BIGINT NOT NULL,
	seen    BIGINT NOT NULL
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
