-- Networks in which DHCP gives addresses. What a client is told is in options, JSON.
CREATE TABLE subnets (
	id      TEXT PRIMARY KEY,
	cidr    TEXT NOT NULL UNIQUE,
	options TEXT NOT NULL,
	created BIGINT NOT NULL
);

-- One row for each address that was ever offered; used again once it has run out.
CREATE TABLE leases (
	ip       TEXT PRIMARY KEY, -- so that no two servers give one address to two clients
	position TEXT NOT NULL, -- the address as 32 hexadecimal digits: sorts, in either family
	subnet   TEXT NOT NULL REFERENCES subnets (id),
	client   TEXT NOT NULL, -- who has it: "mac:...", "id:..." or "duid:..."
	mac      TEXT NOT NULL DEFAULT '',
	hostname TEXT NOT NULL DEFAULT '',
	state    TEXT NOT NULL, -- offered, bound, released, declined
	since    BIGINT NOT NULL, -- in this state
	expires  BIGINT NOT NULL
);
CREATE UNIQUE INDEX leases_client ON leases (subnet, client);
CREATE INDEX leases_mac ON leases (mac);
CREATE INDEX leases_position ON leases (position);
CREATE INDEX leases_expires ON leases (subnet, state, expires);

-- Addresses that are for one client, or (mac and client empty) for none.
CREATE TABLE reservations (
	ip       TEXT PRIMARY KEY,
	position TEXT NOT NULL,
	subnet   TEXT NOT NULL REFERENCES subnets (id),
	mac      TEXT NOT NULL DEFAULT '',
	client   TEXT NOT NULL DEFAULT '', -- DHCP client identifier or DUID, hexadecimal
	hostname TEXT NOT NULL DEFAULT '',
	created  BIGINT NOT NULL
);
CREATE UNIQUE INDEX reservations_mac ON reservations (subnet, mac) WHERE mac <> '';
CREATE UNIQUE INDEX reservations_client ON reservations (subnet, client) WHERE client <> '';
