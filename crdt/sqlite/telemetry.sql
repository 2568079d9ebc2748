CREATE TABLE pops (            -- edgeproxy's telemetry: read it, edgeproxy writes it anew
    node TEXT PRIMARY KEY,     -- name of a POP that told of itself in the last 10 s
    region TEXT,
    self INTEGER,              -- 1: the POP whose file this is
    incarnation INTEGER,       -- of its process, a later one has a greater number
    connections INTEGER,       -- with all backends
    seq INTEGER,               -- of its report that last changed anything in this row
    seen_ms INTEGER            -- when that was taken, ms since 1970
) WITHOUT ROWID;

CREATE TABLE backend_load (    -- edgeproxy's telemetry: read it, edgeproxy writes it anew
    pop TEXT,                  -- who has the connections
    backend TEXT,
    connections INTEGER,       -- above 0
    incarnation INTEGER,       -- of the POP's process
    seq INTEGER,               -- of its report that last changed this row
    PRIMARY KEY (pop, backend)
) WITHOUT ROWID;

CREATE TABLE backend_health (  -- edgeproxy's telemetry: read it, edgeproxy writes it anew
    pop TEXT,                  -- who checks
    backend TEXT,
    up INTEGER,                -- its verdict, 0 or 1
    since_ms INTEGER,          -- of the verdict, ms since 1970
    why TEXT,
    PRIMARY KEY (pop, backend)
) WITHOUT ROWID;

CREATE VIEW mesh_backends AS   -- edgeproxy's telemetry: one row for each of backends, summed over the mesh
SELECT b.id, b.app, b.region, b.wg_ip, b.port,
    COALESCE(b.healthy, 1) <> 0 AND (h.backend IS NULL OR h.up > 0) AS healthy, -- by the operator and by the checks
    COALESCE(h.up, 0) AS checks_up, COALESCE(h.down, 0) AS checks_down,
    COALESCE(o.draining, 0) <> 0 AS draining, COALESCE(b.deleted, 0) <> 0 AS deleted,
    b.weight, COALESCE(b.soft_limit, s.soft_limit) AS soft_limit, COALESCE(b.hard_limit, s.hard_limit) AS hard_limit,
    COALESCE(l.connections, 0) AS connections, COALESCE(l.own, 0) AS own, -- own: of the POP whose file this is
    CASE WHEN CAST(COALESCE(b.hard_limit, s.hard_limit) AS INTEGER) > 0
        THEN CAST(COALESCE(b.hard_limit, s.hard_limit) AS INTEGER) - COALESCE(l.connections, 0) END AS headroom -- NULL: unlimited
FROM backends AS b
LEFT JOIN backend_options AS o ON o.id = b.id
LEFT JOIN services AS s ON s.app = b.app
LEFT JOIN (SELECT backend, SUM(connections) AS connections,
        SUM(CASE WHEN pop IN (SELECT node FROM pops WHERE self) THEN connections END) AS own
    FROM backend_load GROUP BY backend) AS l ON l.backend = b.id
LEFT JOIN (SELECT backend, SUM(up <> 0) AS up, SUM(up = 0) AS down
    FROM backend_health GROUP BY backend) AS h ON h.backend = b.id;
