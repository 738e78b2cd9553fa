-- The original's tables under the original's names, so that its queries, and commands
-- issued by hand, work here. Columns after the comment "ours" are not the original's.

CREATE TABLE servers (
	id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	aliases         varchar[],
	addresses       varchar[] NOT NULL DEFAULT '{}',
	organization_id uuid,
	discarded_at    timestamptz,
	heartbeat_at    timestamptz,
	created_at      timestamptz NOT NULL DEFAULT now(),
	updated_at      timestamptz NOT NULL DEFAULT now(),
	-- ours
	group_id        varchar NOT NULL DEFAULT ''
);

-- A log line's created_at is the time in its id, by the agent's clock, and updated_at
-- is when it came. seq ascends in the order in which lines were committed.
CREATE SEQUENCE logs_seq;
CREATE TABLE logs (
	id         uuid NOT NULL,
	server_id  uuid NOT NULL,
	created_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now(),
	seq        bigint NOT NULL DEFAULT nextval('logs_seq'),
	service    varchar NOT NULL,
	msg        varchar NOT NULL,
	tsv        tsvector, -- the original fills it with a trigger; here it stays empty
	PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
CREATE INDEX logs_seq_idx ON logs (seq);
CREATE INDEX logs_server_id_seq_idx ON logs (server_id, seq);
-- Lines of clocks that are wrong by more than what there are partitions for.
CREATE TABLE logs_default PARTITION OF logs DEFAULT;

-- Ours: what lines are in a closed range of seq, so that a search reads only ranges
-- that can have what it looks for. words is a filter of the words in their messages.
CREATE TABLE log_segments (
	first_seq     bigint PRIMARY KEY,
	last_seq      bigint NOT NULL,
	lines         bigint NOT NULL,
	first_at      timestamptz NOT NULL, -- of created_at
	last_at       timestamptz NOT NULL,
	first_arrival timestamptz NOT NULL, -- of updated_at
	last_arrival  timestamptz NOT NULL,
	words         bytea NOT NULL
);

CREATE TABLE telemetries (
	server_id  uuid NOT NULL,
	id         uuid NOT NULL,
	data       jsonb,
	data_key   text NOT NULL DEFAULT '',
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (server_id, id)
);
CREATE INDEX telemetries_newest ON telemetries (server_id, data_key, created_at DESC);
CREATE INDEX telemetries_updated_at ON telemetries (updated_at);

CREATE TABLE commands (
	id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	argv       varchar[],
	type       varchar NOT NULL DEFAULT 'external',
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	-- ours
	options    varchar[] NOT NULL DEFAULT '{}', -- for agents that acknowledge
	issued_by  varchar NOT NULL DEFAULT '',     -- '': by hand
	run_limit  bigint NOT NULL DEFAULT 0,       -- seconds that it may run; 0: as the agent has it
	expires_at timestamptz                      -- is not sent after that
);
CREATE INDEX commands_created_at ON commands (created_at);

CREATE TABLE command_queues (
	id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	command_id uuid NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX index_command_queues_on_created_at ON command_queues (created_at);
CREATE INDEX command_queues_command_id ON command_queues (command_id);

CREATE TABLE command_responses (
	id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	stdout     varchar[] NOT NULL,
	hash       varchar NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	stderr     varchar[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX index_command_responses_on_hash ON command_responses (hash);

CREATE TABLE servers_commands (
	id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	server_id     uuid NOT NULL,
	command_id    uuid NOT NULL,
	response_id   uuid,
	dispatched_at timestamptz,
	response_at   timestamptz,
	created_at    timestamptz NOT NULL DEFAULT now(),
	updated_at    timestamptz NOT NULL DEFAULT now(),
	-- ours; identical output of several servers is one response, so these are here
	state         varchar NOT NULL DEFAULT '',
	exit_code     integer,
	kept          bigint NOT NULL DEFAULT 0, -- bytes of output
	dropped       bigint NOT NULL DEFAULT 0 -- bytes of output that were not kept
);
CREATE INDEX index_servers_commands_on_command_id ON servers_commands (command_id);
CREATE INDEX index_servers_commands_on_response_id ON servers_commands (response_id);
CREATE INDEX index_servers_commands_on_server_id ON servers_commands (server_id);
CREATE INDEX servers_commands_waiting ON servers_commands (server_id) WHERE dispatched_at IS NULL;
CREATE INDEX servers_commands_unanswered ON servers_commands (dispatched_at) WHERE response_at IS NULL;

-- Ours: output as it comes, until all of it is a response.
CREATE TABLE command_outputs (
	servers_command_id uuid NOT NULL REFERENCES servers_commands (id) ON DELETE CASCADE,
	sequence           bigint NOT NULL,
	stdout             text NOT NULL,
	stderr             text NOT NULL,
	PRIMARY KEY (servers_command_id, sequence)
);

CREATE TABLE agent_versions (
	id      bigserial PRIMARY KEY,
	version varchar NOT NULL,
	md5     varchar NOT NULL,
	url     varchar NOT NULL
);
