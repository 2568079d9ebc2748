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
