CREATE TABLE subnets (
	id      TEXT PRIMARY KEY,
	cidr    TEXT NOT NULL UNIQUE,
	options TEXT NOT NULL -- JSON
);
