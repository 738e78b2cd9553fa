-- What nodes have reported of themselves by commands: the newest of each source.
CREATE TABLE catalogs (
	chassis TEXT NOT NULL REFERENCES chassis (id),
	source  TEXT NOT NULL, -- its name: what it was read with, such as lshw
	format  TEXT NOT NULL, -- raw: data is a JSON string; json: data is what the command wrote
	data    TEXT NOT NULL,
	task    TEXT NOT NULL, -- that reported it
	created BIGINT NOT NULL,
	PRIMARY KEY (chassis, source)
);
