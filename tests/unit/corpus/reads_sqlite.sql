SELECT 1
SELECT orders.id, orders.total FROM orders WHERE orders.id = ?
SELECT orders.id FROM orders WHERE orders.status IN (?, ?) ORDER BY orders.id DESC LIMIT ? OFFSET ?
SELECT * FROM orders WHERE id = :id AND user = @user AND kind = $kind
SELECT count(*) FROM orders
SELECT id FROM orders WHERE name LIKE ? ESCAPE '\'
SELECT id FROM orders WHERE name GLOB 'a*'
SELECT id FROM orders WHERE name REGEXP 'x'
SELECT json_extract(data, '$.name') FROM documents
SELECT data -> '$.a', data ->> 'b' FROM documents
SELECT value FROM json_each(?)
SELECT json_extract(value, '$.id') AS id FROM json_each(?) AS given
SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now'), datetime('now', '-1 day'), julianday('now')
SELECT typeof(a), quote(b), hex(c), randomblob(4), random() FROM t
SELECT last_insert_rowid(), changes(), total_changes()
SELECT rowid, oid, _rowid_ FROM t
SELECT "update", [delete], `insert` FROM t
SELECT replace(name, 'a', 'b'), substr(name, 1, 2), instr(name, 'x') FROM t
SELECT group_concat(name, ', ') FROM t GROUP BY kind
SELECT total(x), avg(x), max(x), min(x) FROM t
SELECT a IS b, a IS NOT b, a == b, a <> b FROM t
SELECT a || b, a & b, a << 2, ~a, a % 3 FROM t
SELECT CAST(a AS INTEGER), x'53514C', 1e3, .5 FROM t
SELECT iif(a, b, c), ifnull(a, b), coalesce(a, b) FROM t
SELECT CASE a WHEN 1 THEN 'x' ELSE 'y' END FROM t
SELECT * FROM a INNER JOIN b USING (id)
SELECT * FROM a LEFT JOIN b ON a.id = b.id
SELECT * FROM a, b WHERE a.id = b.id
SELECT * FROM orders INDEXED BY by_user WHERE user = ?
SELECT * FROM orders NOT INDEXED WHERE user = ?
SELECT * FROM a UNION SELECT * FROM b EXCEPT SELECT * FROM c
SELECT * FROM (SELECT 1 AS a UNION ALL SELECT 2)
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10) SELECT x FROM n
WITH recent AS (SELECT * FROM orders LIMIT 3) SELECT * FROM recent
SELECT row_number() OVER (ORDER BY id), ntile(4) OVER w FROM t WINDOW w AS (ORDER BY id)
SELECT sum(x) FILTER (WHERE y > 1) FROM t
SELECT EXISTS (SELECT 1 FROM orders WHERE id = ?)
SELECT * FROM orders WHERE (a, b) > (?, ?)
SELECT * FROM posts WHERE posts MATCH 'update OR delete'
SELECT 'DELETE FROM orders; --', "INSERT INTO orders"
SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%CREATE%'
SELECT sqlite_version(), sqlite_source_id()
VALUES (1, 'a'), (2, 'b')
PRAGMA table_info(orders)
PRAGMA main.table_xinfo("orders")
PRAGMA index_list('orders')
PRAGMA foreign_key_list(orders)
PRAGMA journal_mode
PRAGMA query_only
PRAGMA integrity_check
PRAGMA user_version
EXPLAIN QUERY PLAN SELECT * FROM orders
EXPLAIN DELETE FROM orders
-- insert a comment
/* update */ SELECT 1
SELECT 1;
BEGIN
