-- Version 3. 1: the relay pulled these events itself; 0: somebody sent them. Part of the checksum where it is not 0.
ALTER TABLE batches ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
