-- What our agents want to know of a version beside what the original's do. A row that
-- was inserted as the original has it has no signature, and only originals are told of
-- it.
ALTER TABLE agent_versions
	ADD COLUMN kind      text NOT NULL DEFAULT 'agent',
	ADD COLUMN arch      text NOT NULL DEFAULT '',
	ADD COLUMN sha256    text NOT NULL DEFAULT '',
	ADD COLUMN signature text NOT NULL DEFAULT '',
	ADD COLUMN size      bigint NOT NULL DEFAULT 0;
