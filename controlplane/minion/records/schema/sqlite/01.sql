-- See schema/postgres/01.sql. Times are microseconds since 1970, lists are JSON, and
-- in logs an id is the 16 bytes of its time and node in an order that ascends with time.

CREATE TABLE servers (
	id              TEXT PRIMARY KEY,
	aliases         TEXT,
	addresses       TEXT NOT NULL DEFAULT '[]',
	organization_id TEXT,
	discarded_at    BIGINT,
	heartbeat_at    BIGINT,
	created_at      BIGINT NOT NULL,
	updated_at      BIGINT NOT NULL,
	group_id        TEXT NOT NULL DEFAULT ''
);

CREATE TABLE logs (
	seq        INTEGER PRIMARY KEY AUTOINCREMENT,
	id         BLOB NOT NULL,
	server_id  BLOB NOT NULL,
	service    TEXT NOT NULL,
	msg        TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX logs_id ON logs (id);
CREATE INDEX logs_server_id_seq ON logs (server_id, seq);

CREATE TABLE log_segments (
	first_seq     BIGINT PRIMARY KEY,
	last_seq      BIGINT NOT NULL,
	lines         BIGINT NOT NULL,
	first_at      BIGINT NOT NULL,
	last_at       BIGINT NOT NULL,
	first_arrival BIGINT NOT NULL,
	last_arrival  BIGINT NOT NULL,
	words         BLOB NOT NULL
);

CREATE TABLE telemetries (
	server_id  TEXT NOT NULL,
	id         TEXT NOT NULL,
	data       TEXT,
	data_key   TEXT NOT NULL DEFAULT '',
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (server_id, id)
);
CREATE INDEX telemetries_newest ON telemetries (server_id, data_key, created_at DESC);
CREATE INDEX telemetries_updated_at ON telemetries (updated_at);

CREATE TABLE commands (
	id         TEXT PRIMARY KEY,
	argv       TEXT,
	type       TEXT NOT NULL DEFAULT 'external',
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	options    TEXT NOT NULL DEFAULT '[]',
	issued_by  TEXT NOT NULL DEFAULT '',
	run_limit  BIGINT NOT NULL DEFAULT 0,
	expires_at BIGINT
);
CREATE INDEX commands_created_at ON commands (created_at);

CREATE TABLE command_queues (
	id         TEXT PRIMARY KEY,
	command_id TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE INDEX command_queues_command_id ON command_queues (command_id);

CREATE TABLE command_responses (
	id         TEXT PRIMARY KEY,
	stdout     TEXT NOT NULL,
	hash       TEXT NOT NULL UNIQUE,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	stderr     TEXT NOT NULL DEFAULT '[]'
);

CREATE TABLE servers_commands (
	id            TEXT PRIMARY KEY,
	server_id     TEXT NOT NULL,
	command_id    TEXT NOT NULL,
	response_id   TEXT,
	dispatched_at BIGINT,
	response_at   BIGINT,
	created_at    BIGINT NOT NULL,
	updated_at    BIGINT NOT NULL,
	state         TEXT NOT NULL DEFAULT '',
	exit_code     INTEGER,
	kept          BIGINT NOT NULL DEFAULT 0,
	dropped       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX servers_commands_command_id ON servers_commands (command_id);
CREATE INDEX servers_commands_response_id ON servers_commands (response_id);
CREATE INDEX servers_commands_server_id ON servers_commands (server_id);
CREATE INDEX servers_commands_waiting ON servers_commands (server_id) WHERE dispatched_at IS NULL;
CREATE INDEX servers_commands_unanswered ON servers_commands (dispatched_at) WHERE response_at IS NULL;

CREATE TABLE command_outputs (
	servers_command_id TEXT NOT NULL REFERENCES servers_commands (id) ON DELETE CASCADE,
	sequence           BIGINT NOT NULL,
	stdout             TEXT NOT NULL,
	stderr             TEXT NOT NULL,
	PRIMARY KEY (servers_command_id, sequence)
);

CREATE TABLE agent_versions (
	id      INTEGER PRIMARY KEY,
	version TEXT NOT NULL,
	md5     TEXT NOT NULL,
	url     TEXT NOT NULL
);
