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
    health_check TEXT,          -- off, tcp … or http …; NULL: its service's
    proxy_protocol TEXT         -- off, v1 or v2, what it is sent; NULL: its service's
);

-- An app: where every POP listens for it, and what holds for all of its
-- backends that do not say otherwise.
CREATE TABLE IF NOT EXISTS services (
    app TEXT PRIMARY KEY,
    health_check TEXT,          -- off, tcp … or http …; NULL: the POP's default
    panic_threshold INTEGER,    -- percent that must be up, or checks are not believed; NULL: the POP's default
    soft_limit INTEGER,         -- of backends whose own is NULL
    hard_limit INTEGER,         -- the same
    listen TEXT,                -- host:port, separated by commas; :443 is every address; NULL: nowhere of its own
    mode TEXT,                  -- tcp, tls-passthrough or tls-terminate; NULL: tcp
    sni TEXT,                   -- names by which TLS clients ask for it: a.example.com, *.example.com, or * for any and none
    alpn TEXT,                  -- of tls-terminate: protocols offered, such as h2,http/1.1; NULL: none
    affinity_ttl INTEGER,       -- seconds for which a client keeps its backend; 0: it does not; NULL: the POP's
    proxy_protocol TEXT,        -- off, v1 or v2, what its backends are sent; NULL: off
    connect_timeout_ms INTEGER, -- NULL: the POP's
    idle_timeout_secs INTEGER,  -- NULL: the POP's
    max_connections INTEGER     -- open at a time through one POP, more are reset; NULL or 0: no bound
);

-- Backends that announced themselves, and their last sign of life. A backend
-- without a row here is static: it never expires.
CREATE TABLE IF NOT EXISTS registrations (
    id TEXT PRIMARY KEY,        -- of a row in backends
    pop TEXT,                   -- that heard the last heartbeat
    heartbeat_ms INTEGER,       -- when that was, ms since 1970 by the mesh's time
    registered_ms INTEGER,
    ttl_secs INTEGER,           -- without a heartbeat for so long it is out of routing, for ten times that it is removed
    failing TEXT                -- why its agent says that it is down; NULL: it is not
);

-- What each POP says of itself. Only the POP itself writes its row.
CREATE TABLE IF NOT EXISTS pop_status (
    node TEXT PRIMARY KEY,
    faults TEXT                 -- JSON: what it cannot do, such as listen where a service says
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
