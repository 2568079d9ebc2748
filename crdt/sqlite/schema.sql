-- The seed's table: exactly these ten columns in this order, so that
-- positional INSERT INTO backends VALUES (...) keeps working for ever.
-- Whatever else is known of a backend stands in backend_options.
CREATE TABLE IF NOT EXISTS backends (
    id TEXT PRIMARY KEY,
    app TEXT,
    region TEXT,
    wg_ip TEXT,
    port INTEGER,
    healthy INTEGER,
    weight INTEGER,
    soft_limit INTEGER,
    hard_limit INTEGER,
    deleted INTEGER DEFAULT 0
);

CREATE TABLE IF NOT EXISTS backend_options (
    id TEXT PRIMARY KEY,        -- of a row in backends
    country TEXT,               -- ISO 3166-1 alpha-2
    draining INTEGER DEFAULT 0, -- 1: no new connections
    health_check TEXT           -- off, tcp … or http …; NULL: its service's
);

-- What holds for all backends of an app that do not say otherwise.
CREATE TABLE IF NOT EXISTS services (
    app TEXT PRIMARY KEY,
    health_check TEXT,          -- off, tcp … or http …; NULL: the POP's default
    panic_threshold INTEGER,    -- percent that must be up, or checks are not believed; NULL: the POP's default
    soft_limit INTEGER,         -- of backends whose own is NULL
    hard_limit INTEGER          -- the same
);

-- The key by which each POP was first seen: nobody else takes its name, until
-- "edgeproxy members forget" removes the row.
CREATE TABLE IF NOT EXISTS pop_keys (
    node TEXT PRIMARY KEY,
    public_key TEXT             -- Ed25519, base64
);

-- The overlay: what each POP says of itself. Only the POP itself writes its row;
-- anybody may delete one, as "edgeproxy members forget" does.
CREATE TABLE IF NOT EXISTS wg_pops (
    node TEXT PRIMARY KEY,
    region TEXT,
    public_key TEXT,            -- Curve25519, base64
    next_key TEXT,              -- to which it is about to change
    address TEXT,               -- IPv4 in the overlay
    address6 TEXT,              -- IPv6 in the overlay
    endpoint TEXT,              -- ip:port, outside
    topology TEXT,              -- that it plans by
    claimed_ms INTEGER          -- of two claims to one address the earlier holds
);

-- The overlay: plain WireGuard devices, as "edgeproxy wg peer add" admits them.
CREATE TABLE IF NOT EXISTS wg_peers (
    name TEXT PRIMARY KEY,
    region TEXT,
    public_key TEXT,            -- Curve25519, base64
    address TEXT,               -- IPv4 in the overlay
    address6 TEXT,              -- IPv6 in the overlay
    endpoint TEXT,              -- ip:port, outside; NULL: it comes by itself
    via TEXT,                   -- POPs that have a tunnel with it, separated by commas; NULL: all
    routes TEXT,                -- networks behind it, separated by commas
    claimed_ms INTEGER
);
