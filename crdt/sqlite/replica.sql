-- What makes the file a replica. Rows of these tables are edgeproxy's alone;
-- the triggers on the operator's tables append to crdt_inbox and read
-- crdt_control, nothing else.
CREATE TABLE IF NOT EXISTS crdt_control (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    applying INTEGER NOT NULL DEFAULT 0, -- 1 inside edgeproxy's own transactions: the triggers are silent
    node TEXT NOT NULL,                  -- whose file this is, and in which life
    epoch INTEGER NOT NULL,
    nonce TEXT NOT NULL,
    version INTEGER NOT NULL,            -- counts edgeproxy's transactions
    clock INTEGER NOT NULL               -- the latest time handed out or observed
);
CREATE TABLE IF NOT EXISTS crdt_inbox (
    n INTEGER PRIMARY KEY,
    tbl TEXT,
    pk,           -- the row's key as it is
    at REAL,      -- julianday; 0: found in a file that was adopted
    mask INTEGER  -- changed columns, -1: all of them, 0: deleted
);
-- Rows that cannot be records as they are: what changed in them so far.
CREATE TABLE IF NOT EXISTS crdt_unfit (
    tbl TEXT, pk, mask INTEGER, reason TEXT, PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS crdt_origins (
    id INTEGER PRIMARY KEY, node TEXT NOT NULL, epoch INTEGER NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,      -- up to which of its writes everything is known
    collected INTEGER NOT NULL DEFAULT 0, -- up to which of them deletes were forgotten
    UNIQUE (node, epoch)
);
CREATE TABLE IF NOT EXISTS crdt_names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- The columns that the triggers know, in the order of the mask's bits.
CREATE TABLE IF NOT EXISTS crdt_tables (name TEXT PRIMARY KEY, columns TEXT NOT NULL) WITHOUT ROWID;
-- One record per row, deleted ones too. origin and seq are the newest stamp's;
-- the others that the record still has stand in crdt_owners.
CREATE TABLE IF NOT EXISTS crdt_rows (
    tbl INTEGER NOT NULL, pk BLOB NOT NULL,
    origin INTEGER NOT NULL, seq INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    rec BLOB NOT NULL,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS crdt_rows_owner ON crdt_rows (origin, seq);
CREATE INDEX IF NOT EXISTS crdt_rows_dead ON crdt_rows (dead) WHERE dead;
CREATE TABLE IF NOT EXISTS crdt_owners (
    origin INTEGER NOT NULL, seq INTEGER NOT NULL, tbl INTEGER NOT NULL, pk BLOB NOT NULL,
    held INTEGER NOT NULL, -- 1: of a record in crdt_quarantine
    PRIMARY KEY (origin, seq, tbl, pk, held)
) WITHOUT ROWID;
-- Columns and deletes stamped too far ahead.
CREATE TABLE IF NOT EXISTS crdt_quarantine (
    tbl INTEGER NOT NULL, pk BLOB NOT NULL, rec BLOB NOT NULL,
    peer TEXT NOT NULL,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
