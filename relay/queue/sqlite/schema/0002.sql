-- Version 2. What Konnect had deleted before it could be fetched: from the gap's start up to this time.
ALTER TABLE gaps ADD COLUMN lost_until REAL;
