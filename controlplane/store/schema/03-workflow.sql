-- Definitions of tasks and graphs that operators have added; JSON.
CREATE TABLE definitions (
	kind    TEXT NOT NULL, -- "task" or "graph"
	name    TEXT NOT NULL,
	body    TEXT NOT NULL,
	created BIGINT NOT NULL,
	PRIMARY KEY (kind, name)
);
