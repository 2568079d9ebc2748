-- The routing database as the operator makes it by hand:
--
--     sqlite3 -cmd '.timeout 5000' routing.db < sql/create_routing_db.sql
--
-- edgeproxy makes the same table in a file that has none, and adds its own
-- tables beside it. The ten columns stand in this order for ever, so that
-- positional INSERT INTO backends VALUES (...) keeps working.
CREATE TABLE IF NOT EXISTS backends (
    id TEXT PRIMARY KEY,      -- "sa-node-1"
    app TEXT,                 -- "myapp"
    region TEXT,              -- "sa", "us", "eu", "ap", or any short code
    wg_ip TEXT,               -- IPv4 or IPv6 address of the backend
    port INTEGER,             -- 1 to 65535
    healthy INTEGER,          -- 0 or 1; NULL: 1
    weight INTEGER,           -- load balancing weight, higher takes more; NULL or 0: 1
    soft_limit INTEGER,       -- comfortable number of connections; NULL or 0: 1
    hard_limit INTEGER,       -- greatest number of connections; NULL or 0: unlimited
    deleted INTEGER DEFAULT 0 -- 1: kept here, out of routing
);
