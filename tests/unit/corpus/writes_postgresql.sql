INSERT INTO orders (id) VALUES ($1)
INSERT INTO orders SELECT * FROM old_orders
INSERT INTO orders (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING id
UPDATE orders SET status = $1::VARCHAR WHERE id = $2::UUID
DELETE FROM orders WHERE id = $1
MERGE INTO orders o USING new n ON o.id = n.id WHEN MATCHED THEN UPDATE SET status = n.status
TRUNCATE orders
CREATE TABLE t (a int)
CREATE TEMPORARY TABLE t (a int)
CREATE TEMP TABLE t AS SELECT 1
CREATE INDEX ON orders (user_id)
CREATE SEQUENCE s
ALTER TABLE orders ADD COLUMN a int
DROP TABLE orders
DROP TABLE IF EXISTS orders
GRANT SELECT ON orders TO somebody
REVOKE SELECT ON orders FROM somebody
COMMENT ON TABLE orders IS 'x'
REINDEX TABLE orders
VACUUM
VACUUM ANALYZE orders
ANALYZE orders
CLUSTER orders
REFRESH MATERIALIZED VIEW summary
IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c
SECURITY LABEL ON TABLE orders IS 'x'
REASSIGN OWNED BY a TO b
WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone
WITH new AS (INSERT INTO orders (id) VALUES ($1) RETURNING id) SELECT id FROM new
WITH changed AS (UPDATE orders SET a = 1 RETURNING id), x AS (SELECT 1) SELECT * FROM changed
WITH x AS (SELECT 1 AS id) UPDATE orders SET a = 1 FROM x WHERE orders.id = x.id
WITH x AS (SELECT 1) INSERT INTO orders SELECT * FROM x
WITH x AS (SELECT 1) DELETE FROM orders
SELECT * INTO copied FROM orders
SELECT * INTO TEMP copied FROM orders
SELECT * FROM orders FOR UPDATE
SELECT * FROM orders WHERE id = $1::UUID FOR UPDATE NOWAIT
SELECT * FROM orders FOR UPDATE OF orders SKIP LOCKED
SELECT * FROM orders FOR NO KEY UPDATE
SELECT * FROM orders FOR NO KEY UPDATE SKIP LOCKED
SELECT * FROM orders FOR SHARE
SELECT * FROM orders FOR KEY SHARE
SELECT * FROM (SELECT * FROM orders FOR UPDATE) AS x
SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b FOR SHARE)
WITH x AS (SELECT * FROM orders FOR UPDATE) SELECT * FROM x
SELECT nextval('order_ids')
SELECT pg_catalog.nextval('order_ids'::regclass)
SELECT "nextval"('order_ids')
SELECT id, nextval ('order_ids') FROM orders
SELECT setval('order_ids', 10)
SELECT set_config('app.user', $1, false)
SELECT set_config('app.user', $1, true)
SELECT pg_advisory_lock(1)
SELECT pg_advisory_lock_shared(1, 2)
SELECT pg_advisory_xact_lock(1)
SELECT pg_advisory_unlock(1)
SELECT pg_advisory_unlock_all()
SELECT pg_try_advisory_lock(1)
SELECT pg_try_advisory_xact_lock_shared(1)
SELECT * FROM orders WHERE pg_try_advisory_lock(id)
SELECT pg_notify('channel', 'payload')
SELECT lo_create(0)
SELECT lo_unlink(16432)
SELECT lo_put(16432, 0, 'x')
SELECT lo_open(16432, 131072)
SELECT lowrite(0, 'x')
SELECT * FROM dblink('dbname=x', 'DELETE FROM t') AS t(a int)
SELECT dblink_exec('dbname=x', 'DELETE FROM t')
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
SELECT pg_cancel_backend(123)
SELECT pg_wal_replay_pause()
SELECT pg_promote()
SELECT pg_reload_conf()
SELECT pg_stat_reset()
SELECT pg_create_physical_replication_slot('x')
SELECT pg_drop_replication_slot('x')
SELECT pg_replication_slot_advance('x', '0/1')
SELECT pg_logical_emit_message(true, 'a', 'b')
SELECT txid_current()
SELECT setseed(0.5)
SET statement_timeout = 0
SET LOCAL app.user = 'x'
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE
SET ROLE somebody
RESET ALL
DISCARD ALL
LOCK TABLE orders IN EXCLUSIVE MODE
LISTEN channel
UNLISTEN *
NOTIFY channel, 'payload'
CALL pay(1)
DO $$ BEGIN PERFORM 1; END $$
PREPARE p AS SELECT 1
EXECUTE p
DEALLOCATE ALL
COPY orders FROM STDIN
COPY orders (id) FROM '/tmp/orders.csv' CSV
COPY orders TO '/tmp/orders.csv'
COPY orders TO PROGRAM 'gzip'
COPY (DELETE FROM orders RETURNING *) TO STDOUT
CHECKPOINT
EXPLAIN ANALYZE DELETE FROM orders
EXPLAIN (ANALYZE, VERBOSE) UPDATE orders SET a = 1
EXPLAIN ANALYZE VERBOSE INSERT INTO orders VALUES (1)
EXPLAIN (ANALYZE true) SELECT nextval('order_ids')
EXPLAIN ANALYZE WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x
/* harmless */ DELETE FROM orders
/* a */ /* b */ INSERT INTO orders VALUES (1)
SELECT 1; DELETE FROM orders
SELECT 1; SELECT nextval('order_ids')
BEGIN; UPDATE orders SET a = 1; COMMIT
;;DELETE FROM orders
