-- What our agents want to know of a version beside what the original's do: see
-- schema/postgres/02.sql.
ALTER TABLE agent_versions ADD COLUMN kind TEXT NOT NULL DEFAULT 'agent';
ALTER TABLE agent_versions ADD COLUMN arch TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_versions ADD COLUMN sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_versions ADD COLUMN signature TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_versions ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
