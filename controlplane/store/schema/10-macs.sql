-- The MAC addresses of each chassis, to find it by any of them. Of those known
-- before, macs is ["52:54:00:00:00:01","52:54:00:00:00:02"]: 20 characters each.
CREATE TABLE chassis_macs (
	mac     TEXT NOT NULL,
	chassis TEXT NOT NULL REFERENCES chassis (id) ON DELETE CASCADE,
	PRIMARY KEY (mac, chassis)
);
CREATE INDEX chassis_macs_chassis ON chassis_macs (chassis);
INSERT INTO chassis_macs (mac, chassis)
	WITH RECURSIVE place (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM place WHERE n < 63)
	SELECT SUBSTR(c.macs, 3 + 20 * n, 17), c.id FROM chassis c, place WHERE LENGTH(c.macs) >= 21 + 20 * n
	UNION SELECT mac, id FROM chassis WHERE mac <> '';
