SELECT 1
select now(), current_date, current_user
SELECT version()
SELECT orders.id, orders.user_id, orders.total FROM orders WHERE orders.id = $1::UUID
SELECT orders.id FROM orders WHERE orders.user_id = $1::VARCHAR AND orders.status IN ($2::VARCHAR, $3::VARCHAR) ORDER BY orders.id DESC LIMIT $4::INTEGER
SELECT count(*) FROM orders WHERE created_at >= $1::TIMESTAMP WITH TIME ZONE
SELECT o.id, l.product_id FROM orders AS o JOIN lines AS l ON l.order_id = o.id WHERE o.id = ANY($1::UUID[])
SELECT anon_1.id FROM (SELECT orders.id AS id FROM orders LIMIT $1::INTEGER) AS anon_1 LEFT OUTER JOIN lines AS lines_1 ON anon_1.id = lines_1.order_id
SELECT DISTINCT ON (user_id) user_id, id FROM orders ORDER BY user_id, id DESC
SELECT user_id, sum(total) FILTER (WHERE status = 'confirmed') AS spent FROM orders GROUP BY user_id HAVING sum(total) > 100
SELECT id, row_number() OVER (PARTITION BY user_id ORDER BY id) AS place FROM orders
SELECT id, lag(total, 1, 0) OVER w FROM orders WINDOW w AS (PARTITION BY user_id ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
WITH recent AS (SELECT * FROM orders WHERE id > 10) SELECT * FROM recent
WITH RECURSIVE tree(id, parent) AS (SELECT id, parent FROM node WHERE parent IS NULL UNION ALL SELECT n.id, n.parent FROM node n JOIN tree t ON n.parent = t.id) SELECT * FROM tree
WITH a AS MATERIALIZED (SELECT 1 AS x), b AS NOT MATERIALIZED (SELECT 2 AS x) SELECT * FROM a, b
SELECT * FROM orders o, LATERAL (SELECT max(price) AS top FROM lines WHERE order_id = o.id) AS x
SELECT * FROM orders LEFT JOIN LATERAL jsonb_array_elements(orders.items) AS item ON true
SELECT data->>'name', data#>>'{a,b}', data @> '{"a": 1}'::jsonb, data ? 'key' FROM documents
SELECT jsonb_path_query(data, '$.items[*] ? (@.price > 10)') FROM documents
SELECT jsonb_build_object('insert', 1, 'delete', 2)
SELECT array_agg(id ORDER BY id) FROM orders
SELECT (ARRAY[1, 2, 3])[1:2]
SELECT unnest(ARRAY[1, 2]) WITH ORDINALITY
SELECT * FROM unnest(ARRAY['a', 'b']) WITH ORDINALITY AS t(word, place)
SELECT * FROM generate_series(1, 10) AS g(n)
SELECT generate_series(now(), now() + interval '1 day', '1 hour')
SELECT date_trunc('day', created_at AT TIME ZONE 'UTC'), count(*) FROM orders GROUP BY 1
SELECT extract(epoch FROM created_at) FROM orders
SELECT substring('Thomas' FROM 2 FOR 3)
SELECT overlay('Txxxxas' PLACING 'hom' FROM 2 FOR 4)
SELECT position('om' IN 'Thomas'), trim(both 'x' FROM 'xTomx')
SELECT 'DELETE FROM orders; DROP TABLE orders'
SELECT 'it''s nextval(''s'')', E'a\'b FOR UPDATE'
SELECT $$ INSERT INTO orders VALUES (1) $$, $tag$ nextval('x') $tag$
SELECT "update", "delete", "into" FROM "insert"
SELECT t."nextval", t."set" FROM t
SELECT update_time, insert_count, deleted, for_sale, set_id FROM stock
SELECT nextval FROM counters WHERE setval = 1
SELECT last_value FROM order_ids
SELECT currval('order_ids'), lastval()
SELECT lo_get(12345)
SELECT lo_bound(x) FROM ranges
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()
SELECT pg_current_wal_insert_lsn()
SELECT pg_last_wal_replay_lsn() >= '0/306EE20'::pg_lsn
SELECT current_setting('app.user', true)
SELECT pg_sleep(0)
SELECT pg_size_pretty(pg_database_size(current_database()))
SELECT pid, state, query FROM pg_stat_activity WHERE state <> 'idle'
SELECT relname, n_live_tup FROM pg_catalog.pg_stat_user_tables
SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory'
SELECT column_name FROM information_schema.columns WHERE table_name = 'orders'
SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a WHERE a.attrelid = 'orders'::regclass
SELECT to_tsvector('english', body) @@ plainto_tsquery('english', $1) FROM posts
SELECT similarity(name, $1) FROM products WHERE name % $1
SELECT 10 % 3, 'a' || 'b', 2 ^ 3, |/ 25.0, ~1, 1 << 2, 1 # 2
SELECT * FROM orders TABLESAMPLE SYSTEM (1)
SELECT a IS DISTINCT FROM b, a IS NOT DISTINCT FROM b FROM t
SELECT CASE WHEN total > 10 THEN 'large' ELSE 'small' END FROM orders
SELECT coalesce(a, b, 0), nullif(a, b), greatest(a, b), least(a, b) FROM t
SELECT * FROM orders WHERE (user_id, id) > ($1, $2) ORDER BY user_id, id FETCH FIRST 10 ROWS ONLY
SELECT * FROM orders OFFSET 5 ROWS FETCH NEXT 5 ROWS WITH TIES
SELECT a, b, sum(c) FROM t GROUP BY GROUPING SETS ((a), (b), ())
SELECT a, b, sum(c) FROM t GROUP BY ROLLUP (a, b)
SELECT a, b, sum(c) FROM t GROUP BY CUBE (a, b)
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY latency) FROM requests
SELECT id FROM a UNION ALL SELECT id FROM b EXCEPT SELECT id FROM c INTERSECT SELECT id FROM d
(SELECT id FROM a ORDER BY id LIMIT 1) UNION (SELECT id FROM b)
SELECT EXISTS (SELECT 1 FROM orders WHERE id = $1)
SELECT * FROM orders WHERE id IN (SELECT order_id FROM lines WHERE quantity > 3)
SELECT * FROM orders WHERE NOT EXISTS (SELECT 1 FROM lines WHERE lines.order_id = orders.id)
SELECT * FROM orders WHERE name ILIKE $1 ESCAPE '\'
SELECT * FROM orders WHERE name ~* '^a.*(update|delete)$'
SELECT * FROM ONLY orders
SELECT row(1, 2), (SELECT max(id) FROM orders)
SELECT CAST($1 AS INTEGER), $2::numeric(10, 2), '1 day'::interval
SELECT xmlelement(name a, 'b')
SELECT * FROM json_to_recordset('[{"a":1}]') AS x(a int)
SELECT '(1,2)'::point <-> '(3,4)'::point
SELECT int4range(1, 5) && int4range(4, 8)
SELECT encode(digest('a', 'sha256'), 'hex')
SELECT gen_random_uuid(), random(), clock_timestamp()
VALUES (1, 'a'), (2, 'b')
TABLE orders
SHOW transaction_read_only
SHOW ALL
EXPLAIN SELECT * FROM orders
EXPLAIN (FORMAT JSON) SELECT * FROM orders
EXPLAIN ANALYZE SELECT * FROM orders
EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM orders WHERE id = 1
EXPLAIN DELETE FROM orders
COPY orders TO STDOUT
COPY (SELECT * FROM orders) TO STDOUT WITH (FORMAT csv)
/* a report: delete nothing */ SELECT * FROM orders
-- insert a comment
SELECT 1; SELECT 2
BEGIN
WAIT FOR LSN '0/306EE20' WITH (TIMEOUT '50ms', NO_THROW)
