-- A chassis works only when it is approved. Those known before there was approval were.
ALTER TABLE chassis ADD COLUMN approved BIGINT;
ALTER TABLE chassis ADD COLUMN approved_by TEXT NOT NULL DEFAULT '';
ALTER TABLE chassis ADD COLUMN rejected BIGINT;
ALTER TABLE chassis ADD COLUMN verified INTEGER NOT NULL DEFAULT 0; -- has had a session over TLS
ALTER TABLE chassis ADD COLUMN booted_by_token INTEGER NOT NULL DEFAULT 0; -- its session came with a boot token
ALTER TABLE chassis ADD COLUMN certificate_boot TEXT NOT NULL DEFAULT ''; -- boot that holds its client certificate
ALTER TABLE chassis ADD COLUMN inspected_boot TEXT NOT NULL DEFAULT ''; -- boot that its inventory is from
UPDATE chassis SET approved = created, approved_by = 'upgrade';

-- What a chassis is made of, apart from what changes with every session: it is large,
-- and would be written anew with each.
CREATE TABLE inventories (
	chassis   TEXT PRIMARY KEY REFERENCES chassis (id) ON DELETE CASCADE,
	inventory TEXT,
	phases    TEXT -- of its boot
);
INSERT INTO inventories (chassis, inventory, phases) SELECT id, inventory, phases FROM chassis WHERE inventory IS NOT NULL OR phases IS NOT NULL;
ALTER TABLE chassis DROP COLUMN inventory;
ALTER TABLE chassis DROP COLUMN phases;
CREATE INDEX chassis_uuid ON chassis (uuid);
CREATE INDEX chassis_address ON chassis (address);
CREATE INDEX chassis_waiting ON chassis (id) WHERE approved IS NULL;

-- One-time tokens that the boot script carries.
CREATE TABLE boot_tokens (
	token_sha256 TEXT PRIMARY KEY,
	uuid         TEXT NOT NULL,
	mac          TEXT NOT NULL,
	created      BIGINT NOT NULL,
	chassis      TEXT NOT NULL DEFAULT '', -- that has shown it first, and in which boot
	boot_id      TEXT NOT NULL DEFAULT '',
	used         BIGINT,
	spent        BIGINT -- good for nothing from then on
);
CREATE INDEX boot_tokens_created ON boot_tokens (created);
CREATE INDEX boot_tokens_chassis ON boot_tokens (chassis);
CREATE INDEX boot_tokens_unused ON boot_tokens (mac, created) WHERE used IS NULL;

CREATE TABLE enrolment_rules (
	id      TEXT PRIMARY KEY,
	kind    TEXT NOT NULL,
	value   TEXT NOT NULL,
	created BIGINT NOT NULL,
	created_by TEXT NOT NULL,
	UNIQUE (kind, value)
);

-- What was decided of chassis, for the servers that hold their sessions, and for the record.
CREATE TABLE decisions (
	rev        BIGINT PRIMARY KEY,
	chassis    TEXT NOT NULL,
	verdict    TEXT NOT NULL, -- "approved", "rejected", "withdrawn", "forgotten"
	decided_by TEXT NOT NULL,
	time       BIGINT NOT NULL
);
