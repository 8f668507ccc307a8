-- Version 1. Events are numbered from 1 without holes; a batch's sequence is the number of its
-- first event, so a position is one integer (sequence + offset) and a backlog is a subtraction.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    duplicates INTEGER NOT NULL DEFAULT 0
);

-- Events accepted per source and format. Written lazily: true for everything before the sequence
-- in meta.counted_to; what came after is added from the batches themselves at start.
CREATE TABLE accepted (
    source INTEGER NOT NULL,
    format TEXT NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (source, format)
) WITHOUT ROWID;

-- The log. The payload comes last, so that the other columns are read without its pages.
CREATE TABLE batches (
    sequence INTEGER PRIMARY KEY,
    received_at REAL NOT NULL,      -- seconds since the epoch
    source INTEGER NOT NULL,
    count INTEGER NOT NULL,         -- events
    formats TEXT NOT NULL,          -- `cef`, or `cef:60,json:40` when mixed
    checksum INTEGER NOT NULL,      -- CRC-32 over the columns above and the payload
    ordinals BLOB,                  -- twins' ordinals in decimal, separated by blanks, where not simply counted
    payload BLOB NOT NULL           -- gzip of the lines
);
CREATE INDEX batches_received_at ON batches (received_at);

-- Where to look for an event that may have been accepted before: which batches hold events of a
-- source in a span of 8.192 s of event time (bucket = milliseconds >> 13), and between which
-- milliseconds. Events without a usable time have a negative bucket made from their identity.
CREATE TABLE event_times (
    source INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    first INTEGER NOT NULL,         -- milliseconds within the bucket
    last INTEGER NOT NULL,
    PRIMARY KEY (source, bucket, sequence)
) WITHOUT ROWID;

-- The event ids of batches that were given back before the deduplication window had passed.
CREATE TABLE tombstones (
    sequence INTEGER PRIMARY KEY,
    received_at REAL NOT NULL,
    ids BLOB NOT NULL               -- separated by blanks, gzip
);

-- Numbers of destinations and readers are never given out twice: what is still on its way to a forgotten
-- one must not reach another.
CREATE TABLE destinations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    start INTEGER NOT NULL,         -- first event owed
    backfilled INTEGER NOT NULL DEFAULT 0,  -- older events owed on top
    delivered INTEGER NOT NULL DEFAULT 0,
    delivered_bytes INTEGER NOT NULL DEFAULT 0,
    filtered INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,        -- dead letters kept at present
    discarded INTEGER NOT NULL DEFAULT 0,
    replayed INTEGER NOT NULL DEFAULT 0,
    hold_reason TEXT,
    hold_since REAL,
    hold_detail TEXT
);

CREATE TABLE dead_letter_totals (
    destination INTEGER NOT NULL REFERENCES destinations (id) ON DELETE CASCADE,
    reason TEXT NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (destination, reason)
) WITHOUT ROWID;

CREATE TABLE readers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination INTEGER NOT NULL REFERENCES destinations (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER,                   -- exclusive; NULL for the live reader
    watermark INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    rate REAL                       -- events per second
);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination INTEGER NOT NULL REFERENCES destinations (id) ON DELETE CASCADE,
    reader INTEGER,                 -- the redrive reader that has it, if any
    reason TEXT NOT NULL,
    position INTEGER NOT NULL,
    count INTEGER NOT NULL,         -- above 1 only for ranges whose bytes are gone
    created_at REAL NOT NULL,
    status INTEGER,
    detail TEXT NOT NULL,
    excerpt BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    event_id TEXT,
    source TEXT,
    received_at REAL,
    line BLOB                       -- NULL for a range
);
CREATE INDEX dead_letters_reader ON dead_letters (reader, id) WHERE reader IS NOT NULL;
CREATE INDEX dead_letters_destination ON dead_letters (destination, id);

-- Bytes that could not be understood: undecodable request bodies and batches that fail their checksum.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at REAL NOT NULL,
    source TEXT NOT NULL,
    cause TEXT NOT NULL,
    sequence INTEGER,               -- for a batch
    count INTEGER,
    body BLOB NOT NULL
);

CREATE TABLE gaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    start REAL NOT NULL,
    end REAL NOT NULL,
    cause TEXT NOT NULL,
    refusals INTEGER NOT NULL,
    closed_at REAL
);
CREATE INDEX gaps_open ON gaps (source) WHERE closed_at IS NULL;
