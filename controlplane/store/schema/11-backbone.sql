-- Hosts whose apps are kept as desired: chassis, and other hosts with a Backbone slave.
CREATE TABLE app_hosts (
	id         TEXT PRIMARY KEY,    -- the chassis' id, else what the slave calls its host
	chassis    TEXT REFERENCES chassis (id) ON DELETE CASCADE,
	host       TEXT NOT NULL,       -- what the slave calls its host
	desired    TEXT,                -- JSON, apps by name; NULL: nothing is desired of it
	revision   BIGINT NOT NULL,     -- of desired
	changed    BIGINT,              -- when desired was
	changed_by TEXT NOT NULL,
	state      TEXT NOT NULL,       -- of the last status
	settled    INTEGER NOT NULL,    -- the apps are as desired
	status     TEXT,                -- JSON: the last status
	transport  TEXT NOT NULL,       -- by which it came: amqp or session
	told       BIGINT,              -- its time, by the host's clock
	received   BIGINT,              -- by ours
	boot_id    TEXT NOT NULL,       -- of the slave's start
	sequence   BIGINT NOT NULL,     -- of the status since then
	behind     BIGINT,              -- time of a newer status, refused as it seemed older
	behind_at  BIGINT,              -- when that was received
	sent       BIGINT NOT NULL,     -- revision that was sent last
	sent_at    BIGINT,
	attempts   INTEGER NOT NULL,    -- to send that revision
	error      TEXT NOT NULL,       -- of the last of them
	rev        BIGINT NOT NULL
);
CREATE INDEX app_hosts_chassis ON app_hosts (chassis);
CREATE INDEX app_hosts_rev ON app_hosts (rev);
CREATE INDEX app_hosts_unsettled ON app_hosts (settled);
